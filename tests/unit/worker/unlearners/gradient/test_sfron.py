"""SFR-on: its weights, the guard against fitted records, its mask, and the released settings by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from app.domain.methods import PRESETS, Descent, SfronSettings
from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods.sfron import SFRON, adaptive_weights
from worker.unlearners.gradient.records import Side, Sides, Stream, TensorRecords, seed_of
from worker.unlearners.gradient.runner import begin, run_course

SIDES: Sides = {Side.FORGET: blobs(20, seed=1), Side.RETAIN: blobs(60, seed=2)}


def test_weights_have_mean_1_and_fall_with_the_loss() -> None:
    losses_B = torch.tensor([0.0, 0.05, 0.1, 0.4, 1.6], dtype=torch.float64)
    weights_B = adaptive_weights(losses_B, floor_nats=0.1, power=0.5)
    assert float(weights_B.mean()) == pytest.approx(1.0, abs=1e-12)
    assert weights_B[0] == weights_B[1] == weights_B[2]
    torch.testing.assert_close(weights_B[2:4] / weights_B[3:], torch.tensor([2.0, 2.0]).double())


def test_a_record_that_is_fitted_fully_does_not_take_all_the_weight() -> None:
    logits_BK = torch.tensor([[200.0, 0.0]] + [[1.0, 0.0]] * 7).requires_grad_()
    losses_B = nn.functional.cross_entropy(logits_BK, torch.zeros(8, dtype=torch.int64), reduction="none")
    assert losses_B[0].item() == 0.0

    def norm(weights_B: torch.Tensor) -> float:
        (found,) = torch.autograd.grad((weights_B * losses_B).mean(), logits_BK, retain_graph=True)
        return float(found.norm())

    plain = norm(torch.ones(8))
    assert norm(adaptive_weights(losses_B.detach(), floor_nats=0.1, power=0.5)) >= 0.5 * plain
    assert norm(adaptive_weights(losses_B.detach(), floor_nats=0.0, power=0.5)) < 1e-6 * plain


def course_of(settings: SfronSettings) -> Course:
    work = SFRON.prepare(Task(small_net(), SIDES, num_classes=3, seed=0), settings).work
    assert isinstance(work, Course)
    return work


def test_with_power_0_it_is_plain_ascent() -> None:
    course = course_of(SfronSettings(power=0.0, cycles=3))
    forget = course.cycle[0]
    plain = replace(
        course, cycle=(replace(forget, terms=(replace(forget.terms[0], weigh=None),)), course.cycle[1])
    )
    nets = [small_net(), small_net()]
    for net, each in zip(nets, (course, plain), strict=True):
        run_course(begin(net, each), each, SIDES, seed=0)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


def test_no_step_on_the_retained_is_longer_than_their_clip_allows() -> None:
    """Plain SGD: a step is the rate times a gradient of at most that norm."""
    free, clipped = (
        SfronSettings(
            retain_clip=clip,
            retain_steps=1,
            cycles=1,
            erase_steps=0,
            repair_steps=0,
            retain=Descent(learning_rate=1.0, momentum=0.0),
        )
        for clip in (0.0, 1e-3)
    )
    moves = []
    for settings in (free, clipped):
        course, net = course_of(settings), small_net()
        only_retain = replace(course, cycle=(course.cycle[1],))
        run_course(begin(net, only_retain), only_retain, SIDES, seed=0)
        pairs = zip(net.parameters(), small_net().parameters(), strict=True)
        moves.append(float(torch.cat([(own - old).detach().flatten() for own, old in pairs]).norm()))
    assert moves[1] == pytest.approx(1e-3, rel=1e-6)
    assert moves[0] > 1e-2


def test_its_ending_decays_the_weights_and_repairs_them_at_a_rate_that_falls_as_a_cosine() -> None:
    settings = SfronSettings(
        erase_steps=2, erase_decay=0.1, repair_steps=5, batch_size=16, retain_clip=0.0,
        retain=Descent(learning_rate=0.3, momentum=0.0),
    )  # fmt: skip
    course = replace(course_of(settings), cycle=(), repeats=1)
    net, again = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    again.load_state_dict(net.state_dict())
    run_course(begin(net, course), course, SIDES, seed=3)
    retained = SIDES[Side.RETAIN]
    stream, theta = Stream(retained, 16, seed_of(3, Side.RETAIN.value)), list(again.parameters())
    rates = [0.3, 0.3] + [0.15 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    for step, (rate, decay) in enumerate(zip(rates, [0.1] * 2 + [0.0] * 5, strict=True)):
        indices = stream.indices(step)
        loss = nn.functional.cross_entropy(again(retained.inputs(indices)), retained.targets(indices))
        for p, g in zip(theta, torch.autograd.grad(loss, theta), strict=True):
            p.data -= rate * (g + decay * p.detach())
    for found, expected in zip(net.parameters(), theta, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("own", "decay"), [(0.0, 0.1), (0.05, 0.1), (0.3, 0.3)])
def test_its_ending_decays_no_less_than_its_steps_do(own: float, decay: float) -> None:
    retain = Descent(learning_rate=0.1, weight_decay=own)
    course = course_of(SfronSettings(erase_decay=0.1, retain=retain))
    erase, repair = course.ending
    assert course.optimizers[erase.optimizer].weight_decay == decay
    assert course.optimizers[repair.optimizer].weight_decay == own


def test_its_mask_is_made_from_both_sides_for_these_records() -> None:
    def mask(sides: Sides) -> list[bool]:
        work = SFRON.prepare(Task(small_net(), sides, num_classes=3, seed=0), SfronSettings()).work
        assert isinstance(work, Course)
        assert work.saliency is not None
        return torch.cat([moves.flatten() for moves in work.saliency.values()]).tolist()

    ours, theirs = mask(SIDES), mask({**SIDES, Side.FORGET: blobs(20, seed=5)})
    assert any(ours)
    assert not all(ours)
    assert ours != theirs  # the second person does not get the first one's
    assert ours == mask(SIDES)


@pytest.mark.parametrize(("fisher", "moves"), [("record", True), ("batch", False)])
def test_somebody_who_is_fitted_far_better_than_others_can_be_followed(fisher: str, moves: bool) -> None:
    net = nn.Linear(4, 3).double()
    with torch.no_grad():
        net.weight.copy_(2.0 * torch.eye(3, 4))
        net.bias.zero_()
    sides: Sides = {**SIDES, Side.FORGET: TensorRecords(torch.eye(3, 4).double() * 8, torch.arange(3))}
    settings = replace(SfronSettings(), fisher=fisher)
    work = SFRON.prepare(Task(net, sides, num_classes=3, seed=0), settings).work
    assert isinstance(work, Course)
    forgotten = sides[Side.FORGET]
    nn.functional.cross_entropy(net(forgotten.inputs(torch.arange(3))), torch.arange(3)).backward()
    assert work.saliency is not None
    kept = [p.grad[work.saliency[name]] for name, p in net.named_parameters() if p.grad is not None]
    every = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert (float(torch.cat(kept).norm()) > 0.1 * float(every.norm())) == moves


def test_the_released_settings_are_the_recurrence_of_the_released_code() -> None:
    settings = replace(PRESETS["sfron"]["released"], cycles=7, retain_steps=2, batch_size=8, forget_rate=0.5)
    net, again = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    again.load_state_dict(net.state_dict())
    work = SFRON.prepare(Task(net, SIDES, num_classes=3, seed=4), settings).work
    assert isinstance(work, Course)
    run_course(begin(net, work), work, SIDES, seed=4)
    _recur(again, settings)
    for found, expected in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def _recur(net: nn.Linear, settings: SfronSettings) -> None:
    """theta <- theta - lr v; v <- momentum v + g, by hand, with one v for both kinds of step."""
    records = {side: SIDES[side] for side in (Side.FORGET, Side.RETAIN)}
    streams = {side: Stream(records[side], 8, seed_of(4, side.value)) for side in records}
    theta = list(net.parameters())

    def gradient(side: Side, indices: Tensor, power: float) -> list[Tensor]:
        losses_B = nn.functional.cross_entropy(
            net(records[side].inputs(indices)), records[side].targets(indices), reduction="none"
        )
        weights_B = losses_B.detach() ** -power
        return list(torch.autograd.grad((weights_B / weights_B.mean() * losses_B).mean(), theta))

    def squares(side: Side) -> list[Tensor]:
        parts = torch.arange(len(records[side])).split(8)
        found = [[g**2 for g in gradient(side, part, 0.0)] for part in parts]
        return [torch.stack(of_one).mean(0) for of_one in zip(*found, strict=True)]

    mask = [f + 1e-12 >= r + 1e-12 for f, r in zip(squares(Side.FORGET), squares(Side.RETAIN), strict=True)]
    speed, drawn = [torch.zeros_like(p) for p in theta], 0

    def step(gradients: list[Tensor], moves: list[Tensor]) -> None:
        for p, v, g, m in zip(theta, speed, gradients, moves, strict=True):
            v.copy_(torch.where(m, 0.9 * v + g, v))
            p.data -= torch.where(m, 0.01 * v, 0.0)

    for cycle in range(7):
        fade = 0.5 * (1 + math.cos(math.pi * cycle / 7))
        ascent = gradient(Side.FORGET, streams[Side.FORGET].indices(cycle), 0.5)
        ascent = [-fade * 0.5 * g * m for g, m in zip(ascent, mask, strict=True)]
        size = float(torch.stack([(g**2).sum() for g in ascent]).sum().sqrt())
        step([g * min(1.0, 7.0 / size) for g in ascent], mask)
        for _ in range(2):
            down = gradient(Side.RETAIN, streams[Side.RETAIN].indices(drawn), 0.0)
            step(down, [torch.ones_like(m) for m in mask])
            drawn += 1


@pytest.mark.parametrize(
    "wrong",
    [{"forget_rate": 0.0}, {"power": -1.0}, {"clip": float("nan")}, {"slow_rate": 1.5}, {"cycles": 0}],
)
def test_wrong_settings_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must "):
        SfronSettings(**wrong)  # type: ignore[arg-type] # integers and floats alike
