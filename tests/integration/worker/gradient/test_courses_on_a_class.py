"""The other courses, with the settings that we ship, on the class that SFR-on forgets."""

import pytest

from app.domain.methods import SETTINGS
from tests.support.forgotten_class import accuracy, original, retrained, run
from worker.unlearners.gradient.records import Side

AS_WITHOUT_IT = [
    "neggrad_plus",
    "npo_klr",
    "random_label",
    "salun",
    "boundary_shrink",
    "stochastic_teacher",
    "scrub",
]


@pytest.mark.parametrize("name", AS_WITHOUT_IT)
def test_the_class_is_forgotten_as_training_without_it_would(name: str) -> None:
    net, _ = run(name, SETTINGS[name]())
    assert accuracy(net, Side.FORGET) <= 0.01
    assert accuracy(net, Side.RETAIN) >= 0.985
    assert accuracy(net, Side.HELD_OUT) >= accuracy(retrained(), Side.HELD_OUT) - 0.025


def test_a_bad_teacher_leaves_guesses_of_the_class_and_everything_else() -> None:
    # It teaches its own near-uniform shares, so that about a tenth of the answers is right by chance.
    net, _ = run("bad_teacher", SETTINGS["bad_teacher"]())
    assert accuracy(net, Side.FORGET) <= 0.2
    assert accuracy(net, Side.HELD_OUT) >= accuracy(retrained(), Side.HELD_OUT) - 0.025


def test_ascent_alone_forgets_more_than_it_should() -> None:
    net, state = run("gradient_ascent", SETTINGS["gradient_ascent"]())
    assert state.is_stopped
    assert accuracy(net, Side.FORGET) <= 0.01
    assert accuracy(net, Side.HELD_OUT) < accuracy(retrained(), Side.HELD_OUT) - 0.02


def test_finetuning_alone_forgets_nothing_that_is_fitted_fully() -> None:
    assert accuracy(original(), Side.FORGET) == 1.0
    net, _ = run("finetune", SETTINGS["finetune"]())
    assert accuracy(net, Side.FORGET) == 1.0
