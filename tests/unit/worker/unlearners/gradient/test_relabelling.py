"""Random labels, SalUn's hard mask, labels across the nearest boundary, and a class that is cut off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import blobs, small_net
from tests.support.gradient_methods import NUM_CLASSES, SIDES, prepared, small_settings, task_of, unlearned
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.losses import Loss, Relabelled
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.methods.boundary_expand import expanded, pruned
from worker.unlearners.gradient.methods.boundary_shrink import labels_across
from worker.unlearners.gradient.methods.salun import salient
from worker.unlearners.gradient.records import Side, TensorRecords


def course_of(name: str, *, seed: int = 0, **settings: Any) -> Course:
    work = prepared(METHODS[name], task_of(seed=seed), **settings).work
    assert isinstance(work, Course)
    return work


def loss_of(course: Course) -> Loss:
    (loss,) = (term.loss for phase in course.cycle for term in phase.terms if term.side is Side.FORGET)
    return loss


def fixed_labels(*, seed: int = 0, exclude_true: bool = False) -> Tensor:
    loss = loss_of(course_of("random_label", seed=seed, redraw=False, exclude_true=exclude_true))
    assert isinstance(loss, Relabelled)
    return loss.labels_N


def test_labels_drawn_once_are_those_of_the_seed() -> None:
    assert torch.equal(fixed_labels(), fixed_labels())
    assert any(not torch.equal(fixed_labels(), fixed_labels(seed=seed)) for seed in (1, 2))
    own_N = SIDES[Side.FORGET].targets(torch.arange(10))
    assert not any((fixed_labels(seed=seed, exclude_true=True) == own_N).any() for seed in range(20))
    assert any((fixed_labels(seed=seed) == own_N).any() for seed in range(20))


def test_the_order_of_both_sides_is_as_it_is_set() -> None:
    joint, apart = (course_of("random_label", order=order).cycle for order in ("joint", "forget_first"))
    assert [(phase.sides, phase.steps) for phase in joint] == [((Side.FORGET, Side.RETAIN), 3)]
    assert [(phase.sides, phase.steps) for phase in apart] == [((Side.FORGET,), 2), ((Side.RETAIN,), 3)]


def test_saliency_is_the_largest_absolute_sums_of_the_forget_gradients() -> None:
    net, records = small_net().eval(), SIDES[Side.FORGET]
    everyone = torch.arange(10)
    nn.functional.cross_entropy(
        net(records.inputs(everyone)), records.targets(everyone), reduction="sum"
    ).backward()
    sizes = {name: p.grad.abs() for name, p in net.named_parameters() if p.grad is not None}
    mask = salient(task_of(), share=0.3)
    moving = torch.cat([sizes[name][moves] for name, moves in mask.items()])
    staying = torch.cat([sizes[name][~moves] for name, moves in mask.items()])
    assert len(moving) == round(0.3 * (len(moving) + len(staying)))
    assert moving.min() > staying.max()


@pytest.mark.parametrize("order", ["joint", "forget_first"])
def test_what_saluns_mask_leaves_out_is_bit_equal_after_the_course(order: str) -> None:
    mask, before = salient(task_of(), share=0.5), dict(small_net().named_parameters())
    after = dict(unlearned(METHODS["salun"], task_of(), order=order).named_parameters())
    for name, moves in mask.items():
        assert torch.equal(after[name][~moves], before[name][~moves])
    assert sum(int((after[name] != before[name]).sum()) for name in mask) > 20


def three_ways() -> nn.Linear:
    """Three classes in a plane, around the origin: 0 to the right, 1 up, 2 down and to the left."""
    net = nn.Linear(2, 3, bias=False).double()
    net.weight = nn.Parameter(torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]], dtype=torch.float64))
    return net


def test_the_label_is_the_one_across_the_nearest_boundary() -> None:
    inputs = torch.tensor([[1.0, 0.8], [0.8, 1.0], [0.55, -1.0], [-1.0, 0.55], [-1.0, -1.0]]).double()
    labels = torch.tensor([0, 1, 0, 1, 2])
    assert torch.equal(three_ways()(inputs).argmax(1), labels)
    found = labels_across(three_ways(), TensorRecords(inputs, labels), step=0.2)
    assert found[:4].tolist() == [1, 0, 2, 2]
    assert found[4] != 2


class Ranged(nn.Module):
    """Notes the least and the largest input that it is given, by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(8, NUM_CLASSES)).double()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, K)."""
        self.seen.append(inputs.detach())
        logits: Tensor = self.net(inputs)
        return logits


def test_no_input_leaves_the_range_of_its_channel_and_no_label_is_the_own() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 100.0]).double().view(1, 2, 1, 1)
    inputs = scale * torch.rand(300, 2, 2, 2, generator=generator, dtype=torch.float64)
    labels, net = torch.arange(300) % NUM_CLASSES, Ranged()
    for step in (0.0, 0.3, 1.0):
        found = labels_across(net, TensorRecords(inputs, labels), step=step)
        assert (found != labels).all()
        seen = torch.cat(net.seen)
        for channel in range(2):
            assert seen[:, channel].max() == inputs[:, channel].max()
            assert seen[:, channel].min() == inputs[:, channel].min()
    assert (torch.cat(net.seen[-1:]) != inputs[256:]).any()


def test_inputs_without_a_gradient_are_refused() -> None:
    words = TensorRecords(torch.ones(4, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="real numbers"):
        labels_across(small_net(), words, step=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_an_extra_class_leaves_the_other_logits_and_is_cut_off_again(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, NUM_CLASSES, bias=bias)).double()
    inputs = blobs(5).all_inputs
    wider = expanded(net, num_classes=NUM_CLASSES, seed=1)
    torch.testing.assert_close(wider(inputs)[:, :NUM_CLASSES], net(inputs), rtol=0, atol=1e-12)
    assert wider(inputs).shape == (5, NUM_CLASSES + 1)
    back = pruned(wider, num_classes=NUM_CLASSES)
    assert torch.equal(back(inputs), net(inputs))
    assert str(back) == str(net)
    again = expanded(net, num_classes=NUM_CLASSES, seed=1)
    assert all(map(torch.equal, again.parameters(), wider.parameters()))


def test_the_forgotten_go_into_the_extra_class_and_out_of_their_own() -> None:
    net, records = small_net(), SIDES[Side.FORGET]
    everyone = torch.arange(10)
    made = prepared(METHODS["boundary_expand"], task_of(net))
    trained = unlearned(METHODS["boundary_expand"], task_of(net), epochs=60)
    own_N1 = records.targets(everyone).unsqueeze(1)
    inputs = records.inputs(everyone)
    before, after = (each.eval()(inputs).gather(1, own_N1).mean() for each in (net, trained))
    assert after < before - 1.0
    assert isinstance(loss := loss_of(_course(made.work)), Relabelled)
    assert loss.labels_N.tolist() == [NUM_CLASSES] * 10
    assert made.net is not net


def test_the_original_is_not_what_boundary_expand_trains() -> None:
    net = small_net()
    unlearned(METHODS["boundary_expand"], task_of(net))
    original = small_net().state_dict()
    assert all(torch.equal(value, original[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("net", "word"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), "no linear layer"),
        (nn.Sequential(nn.Linear(4, NUM_CLASSES), nn.AdaptiveAvgPool1d(NUM_CLASSES)), "not what it answers"),
    ],
)
def test_a_net_without_a_linear_end_is_refused(net: nn.Module, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        METHODS["boundary_expand"].prepare(task_of(net.double()), small_settings("boundary_expand"))


def _course(work: object) -> Course:
    assert isinstance(work, Course)
    return work
