"""SFR-on on denoisers: the same bits whole or resumed, a mask that is kept, and a class that is forgotten."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tests.support.generators import (
    CLASS,
    SETTINGS,
    course_of,
    digits,
    error,
    sides,
    small_dit,
    small_unet,
    trained,
)
from worker.generation.nets import Denoiser
from worker.generation.presets import PRESETS
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import MethodDoesNotFit
from worker.unlearners.gradient.records import Side, Sides
from worker.unlearners.gradient.runner import CourseState, begin, run_course
from worker.unlearners.gradient.silent_labels import LabelSaysNothing, is_over
from worker.unlearners.gradient.state import pack_course, restore_course

Make = Callable[..., Denoiser]
BOTH = pytest.mark.parametrize("make", [small_unet, small_dit])
FEW = sides(most=12)
FAST = replace(SETTINGS.forget, learning_rate=3e-3)


@cache
def learned(make: Make, steps: int) -> nn.Module:
    """Return a net that knows the class; copy it before it forgets."""
    return trained(make(), steps=steps)


LEARNED = pytest.mark.parametrize(("make", "steps"), [(small_unet, 60), (small_dit, 150)])


class Killed(Exception):
    """The process ended in the middle of a course."""


def weights_after(net: Denoiser, *, seed: int = 0) -> list[Tensor]:
    work = course_of(net, FEW, seed=seed)
    run_course(begin(net, work), work, FEW, seed=seed)
    return list(net.parameters())


@BOTH
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(make: Make) -> None:
    first, again, other = weights_after(make()), weights_after(make()), weights_after(make(), seed=1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


@BOTH
def test_a_course_that_was_killed_and_resumed_ends_with_the_same_bits(make: Make) -> None:
    stored: list[bytes] = []

    def kill(state: CourseState) -> None:
        if state.cycle == 2:
            stored.append(pack_course(state))
            raise Killed

    net, resumed = make(), make()
    work = course_of(net, FEW)
    with pytest.raises(Killed):
        run_course(begin(net, work), work, FEW, seed=0, after_cycle=kill)
    torch.manual_seed(99)  # another process: nothing of the first one's draws is left
    again = course_of(resumed, FEW)
    run_course(restore_course(stored[0], resumed, again), again, FEW, seed=0)
    assert all(map(torch.equal, resumed.parameters(), weights_after(make())))


@BOTH
def test_weights_outside_the_mask_are_bit_equal_after_masked_cycles(make: Make) -> None:
    net = make()
    before = copy.deepcopy(net)
    work = course_of(net, FEW, replace(SETTINGS, retain_steps=0, erase_steps=0, repair_steps=0))
    run_course(begin(net, work), work, FEW, seed=0)
    mask = work.saliency
    assert mask is not None
    assert any(not moves.all() for moves in mask.values())
    old = dict(before.named_parameters())
    for name, weight in net.named_parameters():
        assert torch.equal(weight[~mask[name]], old[name][~mask[name]])
    assert any(not torch.equal(weight, old[name]) for name, weight in net.named_parameters())


def test_the_mask_is_the_same_whatever_was_drawn_before() -> None:
    net, masks = small_unet(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        masks.append(course_of(net, FEW).saliency)
    first, second = masks
    assert first is not None
    assert second is not None
    assert all(torch.equal(first[name], second[name]) for name in first)


@LEARNED
def test_the_error_on_the_forgotten_class_rises_and_the_others_keeps(make: Make, steps: int) -> None:
    net, everybody = copy.deepcopy(learned(make, steps)), sides()
    before = {side: error(net, records) for side, records in everybody.items()}
    nobodys = error(make(), everybody[Side.FORGET])
    settings = replace(SETTINGS, cycles=10, batch_size=16, retain_steps=3, forget=FAST)
    work = course_of(net, everybody, settings)
    run_course(begin(net, work), work, everybody, seed=0)
    after = {side: error(net, records) for side, records in everybody.items()}
    assert before[Side.FORGET] < 0.5 * nobodys  # it had learned the class
    assert after[Side.FORGET] > 2.0 * before[Side.FORGET]
    assert after[Side.RETAIN] < 1.05 * before[Side.RETAIN]


@LEARNED
def test_a_course_with_the_rule_ends_when_the_label_says_nothing_and_not_before(
    make: Make, steps: int
) -> None:
    net, everybody = copy.deepcopy(learned(make, steps)), sides()
    settings = replace(SETTINGS, cycles=20, batch_size=16, stops=True, repair_steps=0, forget=FAST)
    work = course_of(net, everybody, settings)
    assert isinstance(work.stop, LabelSaysNothing)
    state = run_course(begin(net, work), work, everybody, seed=0)
    assert state.is_stopped
    assert 1 < state.cycle < 20
    assert len(work.stop.seen) == state.cycle
    assert [is_over(bands) for bands in work.stop.seen] == [False] * (state.cycle - 1) + [True]


def test_a_rule_for_whole_classes_refuses_a_class_that_is_retained_in_part() -> None:
    mixed = {**FEW, Side.RETAIN: digits()}
    with pytest.raises(MethodDoesNotFit, match=r"^stops: must be false, images labelled 1"):
        course_of(small_unet(), mixed, replace(SETTINGS, stops=True))


def test_only_the_class_is_forgotten_and_only_the_others_are_kept() -> None:
    own: Sides = sides()
    assert set(own[Side.FORGET].targets(torch.arange(len(own[Side.FORGET]))).tolist()) == {CLASS}
    work: Course = course_of(small_unet(), FEW)
    forget, retain = work.cycle
    assert [(term.side, term.scale < 0) for term in forget.terms] == [(Side.FORGET, True)]
    assert [(term.side, term.scale > 0) for term in retain.terms] == [(Side.RETAIN, True)]
    assert forget.is_masked
    assert not retain.is_masked


def test_the_presets_for_an_accelerator_hold_what_is_published() -> None:
    ddpm, transformer = PRESETS["ddpm_cifar10"].forgetting, PRESETS["dit_xl_2"].forgetting
    assert (ddpm.forget.name, ddpm.forget.learning_rate, ddpm.forget.weight_decay) == ("adamw", 1e-4, 0.0)
    assert (ddpm.forget_rate, ddpm.clip, ddpm.cycles) == (10.0, 1.0, 50)
    assert (transformer.forget.learning_rate, transformer.forget_rate, transformer.cycles) == (
        1e-4,
        1e-3,
        500,
    )
    assert not ddpm.stops
    assert not transformer.stops
