"""The runner of courses against closed forms, and a run resumed in the middle against a whole one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import Bowl, Point, Slope, blobs, plain_sgd, small_net
from worker.training.recipe import SchedulePart
from worker.unlearners.gradient.course import Course, Fade, Mode, Phase, Term
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import CourseState, MethodBrokeDown, begin, run_course
from worker.unlearners.gradient.state import pack_course, restore_course

BETA, ETA = 0.7, 0.05
HESSIAN = torch.tensor([[3.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
BOTTOM = torch.tensor([1.0, -2.0], dtype=torch.float64)
START = torch.tensor([0.3, 0.4], dtype=torch.float64)
U = torch.tensor([2.0, -1.0], dtype=torch.float64)
NOTHING = TensorRecords(torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
BOTH = {Side.FORGET: NOTHING, Side.RETAIN: NOTHING}
SIZES = {Side.FORGET: 2, Side.RETAIN: 2}


def fast_slow(*, k: int, slow_rate: float = 1.0, repeats: int = 1) -> Course:
    """A step of BETA along -u, then k steps of ETA down the bowl."""
    forget = Phase("forget", (Term(Side.FORGET, Slope(U)),), optimizer="forget")
    retain = Phase("retain", (Term(Side.RETAIN, Bowl(BOTTOM, HESSIAN)),), steps=k)
    return Course(
        cycle=(forget, retain),
        repeats=repeats,
        optimizers={"forget": plain_sgd(BETA), "retain": plain_sgd(ETA)},
        batch_sizes=SIZES,
        slow_rate=slow_rate,
    )


def ended(net: nn.Module, course: Course, *, seed: int = 0) -> Tensor:
    run_course(begin(net, course), course, BOTH, seed=seed)
    return next(net.parameters()).detach()


def closed_form(start: Tensor, *, k: int) -> Tensor:
    """theta* + (I - eta H)^k (theta - beta u - theta*)."""
    shrink = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - ETA * HESSIAN, k)
    return BOTTOM + shrink @ (start - BETA * U - BOTTOM)


@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_a_cycle_on_a_quadratic_is_the_closed_form(k: int) -> None:
    torch.testing.assert_close(
        ended(Point(START), fast_slow(k=k)), closed_form(START, k=k), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_slow_step_goes_part_of_the_way_from_the_anchor_of_each_cycle(rate: float) -> None:
    expected = START
    for _ in range(3):
        expected = expected + rate * (closed_form(expected, k=5) - expected)
    found = ended(Point(START), fast_slow(k=5, slow_rate=rate, repeats=3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_phases_with_optimizers_of_their_own_do_not_share_momentum() -> None:
    course = fast_slow(k=1)
    heavy = plain_sgd(ETA, momentum=0.9)
    apart = replace(course, optimizers={"forget": plain_sgd(BETA), "retain": heavy})
    torch.testing.assert_close(ended(Point(START), apart), closed_form(START, k=1), rtol=0, atol=1e-12)
    shared = replace(course, cycle=tuple(replace(p, optimizer="retain") for p in course.cycle))
    shared = replace(shared, optimizers={"retain": heavy})
    after_forget = START - ETA * U
    down = HESSIAN @ (after_forget - BOTTOM) + 0.9 * U  # what the forget step has left behind
    torch.testing.assert_close(ended(Point(START), shared), after_forget - ETA * down, rtol=0, atol=1e-12)


def test_terms_of_one_phase_are_summed_with_their_scales_and_the_fade() -> None:
    terms = (Term(Side.FORGET, Slope(U), scale=-0.5), Term(Side.RETAIN, Slope(BOTTOM), scale=2.0))
    course = Course(
        cycle=(Phase("joint", terms, fade=Fade.LINEAR),),
        repeats=4,
        optimizers={"retain": plain_sgd(1.0)},
        batch_sizes=SIZES,
    )
    step = -0.5 * U + 2.0 * BOTTOM
    expected = START - step * (1.0 + 0.75 + 0.5 + 0.25)
    torch.testing.assert_close(ended(Point(START), course), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("clip", "lift", "norm"), [(1.0, 0.0, 1.0), (100.0, 10.0, 10.0), (9.0, 1.0, 5.0**0.5)]
)
def test_a_gradient_is_scaled_into_its_bounds_and_the_scalings_are_counted(
    clip: float, lift: float, norm: float
) -> None:
    course = fast_slow(k=0)
    course = replace(course, cycle=(replace(course.cycle[0], clip=clip, lift=lift),))
    net = Point(START)
    state = run_course(begin(net, course), course, BOTH, seed=0)
    torch.testing.assert_close(net.theta.detach(), START - BETA * norm * U / U.norm(), rtol=0, atol=1e-12)
    figures = state.diagnostics.to_json()["phases"]["forget"]
    assert (figures["clipped"], figures["lifted"]) == (clip == 1.0, lift == 10.0)


def test_the_lower_bound_fades_as_the_phase_does() -> None:
    course = fast_slow(k=0, repeats=4)
    course = replace(course, cycle=(replace(course.cycle[0], lift=10.0, fade=Fade.LINEAR),))
    steps = BETA * 10.0 * (1.0 + 0.75 + 0.5 + 0.25)
    expected = START - steps * U / U.norm()
    torch.testing.assert_close(ended(Point(START), course), expected, rtol=0, atol=1e-12)


def test_the_rate_follows_the_schedule_of_the_phase_over_its_steps_and_begins_anew_each_cycle() -> None:
    course = fast_slow(k=0, repeats=2)
    schedule = SchedulePart(name="linear", final_share=0.2)
    course = replace(course, cycle=(replace(course.cycle[0], steps=4, schedule=schedule),))
    expected = START - 2 * BETA * (1.0 + 0.8 + 0.6 + 0.4) * U
    torch.testing.assert_close(ended(Point(START), course), expected, rtol=0, atol=1e-12)


def test_a_phase_ends_where_it_says() -> None:
    course = fast_slow(k=0, repeats=5)
    course = replace(course, cycle=(replace(course.cycle[0], until=2),))
    torch.testing.assert_close(ended(Point(START), course), START - 2 * BETA * U, rtol=0, atol=1e-12)


class After:
    """Stops after so many looks."""

    def __init__(self, num: int) -> None:
        self.left = num

    def is_reached(self, net: nn.Module) -> bool:
        """Whether it was asked often enough."""
        assert not net.training
        self.left -= 1
        return self.left == 0


def test_the_stop_rule_looks_after_each_cycle_and_ends_the_course() -> None:
    course = replace(fast_slow(k=0, repeats=9), stop=After(3))
    net = Point(START)
    state = run_course(begin(net, course), course, BOTH, seed=0)
    assert (state.cycle, state.is_stopped) == (3, True)
    torch.testing.assert_close(net.theta.detach(), START - 3 * BETA * U, rtol=0, atol=1e-12)


class Below:
    """Stops when the point has gone so far along -u."""

    def is_reached(self, net: nn.Module) -> bool:
        """Whether it has."""
        return float(next(net.parameters()) @ U) <= -10.0


def forgetting_and_repairing(*, repeats: int, most_endings: int = 9) -> Course:
    """Cycles of BETA along -u, and at the end three steps of ETA back."""
    back = Phase("back", (Term(Side.RETAIN, Slope(-U)),), steps=3)
    course = fast_slow(k=0, repeats=repeats)
    return replace(course, cycle=course.cycle[:1], stop=Below(), ending=(back,), most_endings=most_endings)


def test_a_repair_that_brings_the_forgotten_back_is_followed_by_more_cycles() -> None:
    course, net = forgetting_and_repairing(repeats=9), Point(START)
    state = run_course(begin(net, course), course, BOTH, seed=0)
    # u . theta is 0.2 and falls by 3.5 a cycle: -10.3 after three, -9.55 repaired, -13.05, -12.3.
    assert (state.cycle, state.is_stopped) == (4, True)
    torch.testing.assert_close(net.theta.detach(), START - (4 * BETA - 6 * ETA) * U, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("repeats", "most_endings"), [(3, 9), (9, 1)])
def test_cycles_and_repairs_are_bounded_and_the_rule_is_asked_last(repeats: int, most_endings: int) -> None:
    course, net = forgetting_and_repairing(repeats=repeats, most_endings=most_endings), Point(START)
    state = run_course(begin(net, course), course, BOTH, seed=0)
    assert (state.cycle, state.is_stopped) == (3, False)
    torch.testing.assert_close(net.theta.detach(), START - (3 * BETA - 3 * ETA) * U, rtol=0, atol=1e-12)


def test_a_run_resumed_between_two_repairs_gives_the_same_bits() -> None:
    course, kept = forgetting_and_repairing(repeats=9, most_endings=2), dict[int, bytes]()

    def keep(state: CourseState) -> None:
        kept[state.cycle] = pack_course(state)

    whole = run_course(begin(Point(START), course), course, BOTH, seed=0, after_cycle=keep)
    for cycle in (2, 3, 4):
        state = restore_course(kept[cycle], Point(torch.zeros_like(START)), course)
        assert pack_course(run_course(state, course, BOTH, seed=0)) == pack_course(whole)


def test_a_loss_that_is_not_finite_ends_the_course_with_its_place() -> None:
    course = fast_slow(k=1, repeats=2)
    steep = replace(course.cycle[1], terms=(Term(Side.RETAIN, Slope(torch.full((2,), torch.inf))),))
    course = replace(course, cycle=(course.cycle[0], steep))
    with pytest.raises(MethodBrokeDown, match=r"^retain, cycle 0: "):
        ended(Point(START), course)


def training(*, mode: Mode = Mode.TRAIN, repeats: int = 6) -> Course:
    """A course with everything that a resume must carry: momentum, dropout, BatchNorm, both sides."""
    loss = CrossEntropy()
    forget = Phase("forget", (Term(Side.FORGET, loss, scale=-0.2),), optimizer="forget", mode=mode)
    retain = Phase("retain", (Term(Side.RETAIN, loss),), steps=2)
    return Course(
        cycle=(forget, retain),
        repeats=repeats,
        optimizers={
            "forget": plain_sgd(0.05, momentum=0.5),
            "retain": plain_sgd(0.05, momentum=0.9, weight_decay=0.01),
        },
        batch_sizes={Side.FORGET: 7, Side.RETAIN: 16},
        slow_rate=0.8,
    )


SIDES = {Side.FORGET: blobs(20, seed=1), Side.RETAIN: blobs(60, seed=2)}


class Interrupted(Exception):
    """The process was killed."""


def test_a_run_resumed_after_any_cycle_gives_the_same_bits_and_figures() -> None:
    course, whole = training(), small_net()
    kept: dict[int, bytes] = {}

    def keep(state: CourseState) -> None:
        kept[state.cycle] = pack_course(state)

    expected = run_course(begin(whole, course), course, SIDES, seed=3, after_cycle=keep)
    for cycle in (1, 4):
        state = restore_course(kept[cycle], small_net(seed=9), course)
        run_course(state, course, SIDES, seed=3)
        assert pack_course(state) == kept[6]
        assert state.diagnostics.to_json() == expected.diagnostics.to_json()


def test_another_seed_gives_other_bits() -> None:
    first, second = small_net(), small_net()
    for net, seed in ((first, 0), (second, 1)):
        run_course(begin(net, training()), training(), SIDES, seed=seed)
    assert not all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize(
    ("mode", "moves"), [(Mode.TRAIN, True), (Mode.FROZEN_NORM, False), (Mode.EVAL, False)]
)
def test_a_forget_phase_that_freezes_batch_norm_leaves_every_buffer(mode: Mode, moves: bool) -> None:
    course = training(mode=mode)
    course = replace(course, cycle=course.cycle[:1])
    net = small_net()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    run_course(begin(net, course), course, SIDES, seed=0)
    assert moves != all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(module.training for module in net.modules())


def test_a_side_that_no_phase_names_is_never_looked_at() -> None:
    course = training()
    course = replace(course, cycle=course.cycle[1:])
    net = small_net()
    run_course(begin(net, course), course, {Side.RETAIN: SIDES[Side.RETAIN]}, seed=0)


def test_records_are_counted_as_they_are_met() -> None:
    state = run_course(begin(small_net(), training()), training(), SIDES, seed=0)
    # Epochs of 20 in batches of 7, and of 60 in batches of 16: the last batch of each is smaller.
    assert state.diagnostics.num_records == {"forget": 2 * 20, "retain": 3 * 60}
    assert state.diagnostics.total_records == 220
