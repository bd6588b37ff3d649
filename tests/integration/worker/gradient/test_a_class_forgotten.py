"""SFR-on on a net that fits the digits fully: our defaults forget a class, the released settings nothing."""

from app.domain.methods import PRESETS, SfronSettings
from tests.support.forgotten_class import accuracy, original, retrained, run
from worker.unlearners.gradient.records import Side


def test_the_shipped_defaults_forget_it_as_training_without_it_would() -> None:
    assert accuracy(original(), Side.FORGET) == 1.0
    net, state = run("sfron", SfronSettings())
    assert state.is_stopped
    assert accuracy(net, Side.FORGET) <= 0.01
    assert accuracy(net, Side.RETAIN) >= 0.985
    assert accuracy(net, Side.HELD_OUT) >= accuracy(retrained(), Side.HELD_OUT) - 0.02


def test_the_released_settings_forget_nothing_of_it_and_the_diagnostics_say_so() -> None:
    net, state = run("sfron", PRESETS["sfron"]["released"])
    assert accuracy(net, Side.FORGET) == 1.0
    assert any("nothing to follow" in warning for warning in state.diagnostics.warnings())
