"""What a course warns of."""

import pytest
import torch

from worker.unlearners.gradient.diagnostics import Diagnostics, StepFigures, cosine, effective_records


def step(*, norm: float = 1.0, factor: float = 1.0, effective: float | None = 8.0) -> StepFigures:
    return StepFigures("forget", 0.5, norm, factor, is_forgetting=True, batch=16, effective=effective)


def warnings(*steps: StepFigures) -> list[str]:
    diagnostics = Diagnostics()
    for each in steps:
        diagnostics.add(each)
    return diagnostics.warnings()


def test_an_ordinary_course_warns_of_nothing() -> None:
    assert warnings(*[step()] * 10) == []
    assert warnings(*[step(factor=0.5)] * 9, step()) == []
    assert warnings(*[step(factor=2.0)] * 9, step()) == []


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        ([step(factor=0.5)] * 10, "clipped"),
        ([step(factor=2.0)] * 10, "lifted"),
        ([step(), step(effective=1.5)], "effective records"),
        ([step(), step(norm=1e-7)], "nothing to follow"),
    ],
)
def test_what_a_reader_should_know_is_said(steps: list[StepFigures], word: str) -> None:
    (warning,) = warnings(*steps)
    assert warning.startswith("forget: ")
    assert word in warning


def test_weights_that_drift_outside_the_mask_are_said() -> None:
    diagnostics = Diagnostics()
    diagnostics.drifted(0.0)
    assert diagnostics.warnings() == []
    diagnostics.drifted(1e-3)
    assert "outside the mask" in diagnostics.warnings()[0]


def test_figures_go_on_after_a_resume() -> None:
    whole, first = Diagnostics(), Diagnostics()
    for each in (step(norm=2.0, factor=3.0), step(norm=4.0, effective=3.0)):
        whole.add(each)
    first.add(step(norm=2.0, factor=3.0))
    resumed = Diagnostics.from_state(first.state())
    resumed.add(step(norm=4.0, effective=3.0))
    assert resumed.to_json() == whole.to_json()
    assert whole.to_json()["phases"]["forget"]["mean_norm"] == 3.0
    assert whole.to_json()["phases"]["forget"]["lifted"] == 0.5


def test_effective_records_and_cosine_are_their_closed_forms() -> None:
    assert effective_records(torch.tensor([1.0, 1.0, 1.0, 1.0])) == 4.0
    assert effective_records(torch.tensor([1.0, 0.0])) == 1.0
    first, second = (
        {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])},
        {"a": torch.tensor([0.0]), "b": torch.tensor([2.0])},
    )
    assert cosine(first, second) == pytest.approx(0.8)
    assert cosine(first, {"a": torch.zeros(1), "b": torch.zeros(1)}) == 0.0
