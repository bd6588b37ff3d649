"""What holds for every method: a pure preparation, teachers of their own, a resume with the same bits."""

import pytest
import torch
from torch import nn

from app.domain.methods import SETTINGS
from tests.support.gradient import small_net
from tests.support.gradient_methods import NUM_CLASSES, SIDES, prepared, small_settings, task_of, unlearned
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.runner import CourseState, begin, run_course
from worker.unlearners.gradient.state import pack_course, restore_course

COURSES = [name for name, method in METHODS.items() if isinstance(prepared(method, task_of()).work, Course)]
TEACHERS = {"bad_teacher": 2, "stochastic_teacher": 2, "scrub": 1, "npo_klr": 1, "lora_residual": 1}


def course_of(name: str, net: nn.Module) -> tuple[nn.Module, Course]:
    made = prepared(METHODS[name], task_of(net))
    assert isinstance(made.work, Course)
    return made.net, made.work


def teachers_of(course: Course) -> list[nn.Module]:
    """Return every net that a loss of the course holds."""
    losses = [term.loss for phase in course.cycle for term in phase.terms]
    nets = [held for loss in losses for held in vars(loss).values() if isinstance(held, nn.Module)]
    return list({id(net): net for net in nets}.values())


def places(net: nn.Module) -> set[int]:
    """Return where in memory a net's tensors are."""
    return {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}


def test_every_method_has_settings_of_its_own_name() -> None:
    assert set(METHODS) == set(SETTINGS)
    assert all(method.settings is SETTINGS[name] for name, method in METHODS.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_preparation_leaves_the_net_its_modes_and_the_random_state(name: str) -> None:
    net = small_net().train()
    net[3].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes, drawn = [module.training for module in net.modules()], torch.get_rng_state()
    prepared(METHODS[name], task_of(net))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_moves_the_net_and_keeps_its_shape(name: str) -> None:
    original = small_net()
    after = unlearned(METHODS[name], task_of(small_net())).eval()
    assert {k: v.shape for k, v in after.state_dict().items()} == {
        k: v.shape for k, v in original.state_dict().items()
    }
    inputs = SIDES[Side.FORGET].inputs(torch.arange(5))
    assert after(inputs).shape == (5, NUM_CLASSES)
    changes = [(p - q).abs().max() for p, q in zip(after.parameters(), original.parameters(), strict=True)]
    assert max(changes) > 1e-4


@pytest.mark.parametrize("name", COURSES)
def test_a_course_prepared_anew_and_resumed_gives_the_same_bits(name: str) -> None:
    net, course = course_of(name, small_net())
    kept: dict[int, bytes] = {}

    def keep(state: CourseState) -> None:
        kept[state.cycle] = pack_course(state)

    whole = run_course(begin(net, course), course, SIDES, seed=0, after_cycle=keep)
    assert len(kept) >= 3
    again, anew = course_of(name, small_net())
    state = run_course(restore_course(kept[1], again, anew), anew, SIDES, seed=0)
    assert pack_course(state) == pack_course(whole)


@pytest.mark.parametrize("name", COURSES)
def test_teachers_are_nets_of_their_own_and_the_same_after_the_course(name: str) -> None:
    net, course = course_of(name, small_net())
    teachers = teachers_of(course)
    assert len(teachers) == TEACHERS.get(name, 0)
    before = [{key: value.clone() for key, value in each.state_dict().items()} for each in teachers]
    run_course(begin(net, course), course, SIDES, seed=0)
    for teacher, old in zip(teachers, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in teacher.state_dict().items())
        assert not places(teacher) & places(net)
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_the_good_teacher_is_the_original(name: str) -> None:
    _, course = course_of(name, small_net())
    original = small_net().state_dict()
    teachers = [teacher.state_dict() for teacher in teachers_of(course)]
    same = [all(torch.equal(state[key], value) for key, value in original.items()) for state in teachers]
    assert same == ([False, True] if len(teachers) == 2 else [True])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("finetune", {"epochs": 0}),
        ("finetune", {"batch_size": 0}),
        ("l1_sparse", {"gamma": -1.0}),
        ("gradient_ascent", {"lift": 2.0}),
        ("neggrad_plus", {"retain_share": 1.5}),
        ("npo_klr", {"beta": 0.0}),
        ("salun", {"share": 0.0}),
        ("boundary_shrink", {"step": float("nan")}),
        ("bad_teacher", {"temperature": 0.0}),
        ("stochastic_teacher", {"erase_epochs": 0}),
        ("scrub", {"msteps": 3}),
        ("scrub", {"alpha": -1.0}),
    ],
)
def test_wrong_settings_are_refused_by_name(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must "):
        small_settings(name, **wrong)
