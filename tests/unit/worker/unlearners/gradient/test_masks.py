"""What a mask leaves out is bit-equal after any step of any optimizer, memory included."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import blobs, plain_sgd, small_net
from worker.training.optimizers import build_optimizer
from worker.training.recipe import AdamwPart, OptimizerPart
from worker.unlearners.gradient.course import Course, Mask, Mode, Phase, Term
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.masks import drift_outside, mask_gradients
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.runner import begin, run_course
from worker.unlearners.gradient.saliency import carried, fisher_ratio, fisher_shares, largest

OPTIMIZERS: dict[str, OptimizerPart] = {
    "sgd": plain_sgd(0.1, momentum=0.9, weight_decay=0.01),
    "adamw": AdamwPart(name="adamw", learning_rate=0.01, weight_decay=0.1),
}
SIDES = {Side.FORGET: blobs(20, seed=1), Side.RETAIN: blobs(60, seed=2)}


def half_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a mask that lets about half of the weights move, and one tensor not at all."""
    generator = torch.Generator().manual_seed(0)
    names = dict(net.named_parameters())
    mask = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in names.items()}
    mask.pop("0.bias")
    return mask


def course_of(part: OptimizerPart, mask: Mask) -> Course:
    loss = CrossEntropy()
    warm = Phase("warm", (Term(Side.RETAIN, loss),), steps=3, optimizer="shared", until=1)
    masked = Phase(
        "masked", (Term(Side.FORGET, loss, scale=-1.0),), steps=4, optimizer="shared",
        is_masked=True, mode=Mode.FROZEN_NORM,
    )  # fmt: skip
    return Course(
        cycle=(warm, masked),
        repeats=2,
        optimizers={"shared": part},
        batch_sizes={Side.FORGET: 8, Side.RETAIN: 8},
        saliency=mask,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_memory_outside_the_mask_are_bit_equal_after_masked_phases(name: str) -> None:
    net = small_net()
    mask = half_of(net)
    course = course_of(OPTIMIZERS[name], mask)
    state = begin(net, course)
    kept: dict[str, Tensor] = {}

    def remember(at: object) -> None:
        if state.cycle == 1:
            kept.update(_held(net, state.optimizers["shared"]))

    run_course(state, course, SIDES, seed=0, after_cycle=remember)
    after = _held(net, state.optimizers["shared"])
    assert len(after) == len(kept) > len(mask)
    moved = 0
    for key, old in kept.items():
        moves = mask.get(key.split("|")[0], torch.zeros_like(old, dtype=torch.bool))
        assert torch.equal(after[key][~moves], old[~moves]), key
        moved += int((after[key] != old).sum())
    assert moved > 20
    assert state.diagnostics.masked_drift == 0.0
    assert state.diagnostics.warnings() == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeroed_gradients_alone_would_not_keep_the_mask(name: str) -> None:
    net = small_net()
    mask, records = half_of(net), blobs(60, seed=2)
    optimizer = build_optimizer(OPTIMIZERS[name], net.parameters())
    before = {}
    for is_masked in (False, True):
        before = {key: p.detach().clone() for key, p in net.named_parameters()}
        net.zero_grad()
        nn.functional.cross_entropy(net(records.all_inputs), records.all_targets).backward()
        if is_masked:
            mask_gradients({key: p.grad for key, p in net.named_parameters() if p.grad is not None}, mask)
        optimizer.step()
    after = {key: p.detach() for key, p in net.named_parameters()}
    assert drift_outside(before, after, mask) > 1e-4


def test_drift_outside_a_mask_is_the_largest_change_of_what_it_leaves_out() -> None:
    old = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([0.5])}
    new = {"a": torch.tensor([9.0, 2.0, 3.25]), "b": torch.tensor([0.5])}
    mask = {"a": torch.tensor([True, False, False])}
    assert drift_outside(old, new, mask) == 0.25


def test_a_weight_that_matters_more_to_the_forgotten_may_move() -> None:
    forget, retain = {"w": torch.tensor([2.0, 1.0, 0.0])}, {"w": torch.tensor([1.0, 2.0, 0.0])}
    assert fisher_ratio(forget, retain, gamma=1.0)["w"].tolist() == [True, False, True]
    assert fisher_ratio(forget, retain, gamma=3.0)["w"].tolist() == [False, False, False]
    assert fisher_ratio(forget, retain, gamma=0.0)["w"].tolist() == [True, True, True]


def test_shares_do_not_change_when_one_side_has_more_information_in_all() -> None:
    forget, retain = {"w": torch.tensor([2.0, 1.0, 1.0])}, {"w": torch.tensor([1.0, 2.0, 1.0])}
    for scale in (1e-9, 1.0, 1e6):
        scaled = {"w": scale * forget["w"]}
        assert fisher_shares(scaled, retain, gamma=1.0)["w"].tolist() == [True, False, True]
        assert fisher_shares(scaled, retain, gamma=1.5)["w"].tolist() == [True, False, False]


def test_what_a_mask_carries_is_its_share_of_the_squares() -> None:
    squares = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0])}
    mask = {"a": torch.tensor([True, False]), "b": torch.tensor([True])}
    assert carried(mask, squares) == 0.75
    assert carried(mask, {name: torch.zeros_like(each) for name, each in squares.items()}) == 1.0


def test_the_largest_share_is_taken_over_all_weights_together() -> None:
    scores = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([[4.0, 0.0], [3.0, 2.0]])}
    mask = largest(scores, share=0.5)
    assert mask["a"].tolist() == [True, False]
    assert mask["b"].tolist() == [[True, False], [True, False]]


def test_of_equal_scores_no_more_than_the_share_is_taken_and_always_the_same() -> None:
    scores = {"a": torch.tensor([0.0, 7.0, 0.0]), "b": torch.zeros(1_000)}
    mask = largest(scores, share=0.3)
    assert mask["a"].tolist() == [True, True, True]
    assert mask["b"].tolist() == [True] * 298 + [False] * 702


def _held(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return copies of all weights, and of what the optimizer remembers of each number of them."""
    held = {}
    for name, parameter in net.named_parameters():
        held[name] = parameter.detach().clone()
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[f"{name}|{key}"] = value.clone()
    return held
