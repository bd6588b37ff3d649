"""The distance between sets of features, against closed forms, and rows of several draws."""

import pytest
import torch

from benchmarks.generation.__main__ import rows_of
from benchmarks.generation.judging import frechet
from benchmarks.results import Sheet

FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_set_is_no_distance_from_itself() -> None:
    assert frechet(FEATURES, FEATURES) == pytest.approx(0.0, abs=1e-10)


def test_a_shift_is_as_far_as_its_square() -> None:
    shift = torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    assert frechet(FEATURES, FEATURES + shift) == pytest.approx(5.25, abs=1e-10)


def test_sets_of_one_shape_and_other_sizes_lie_the_difference_of_their_deviations_apart() -> None:
    centred = FEATURES - FEATURES.mean(0)
    expected = (3.0 - 1.0) ** 2 * float(centred.T.cov().trace())
    assert frechet(centred, 3 * centred) == pytest.approx(expected, rel=1e-10)


def test_it_is_the_same_from_both_ends_and_for_sets_that_do_not_span_the_space() -> None:
    few, other = FEATURES[:3], FEATURES[3:7] * 2
    assert frechet(few, other) == pytest.approx(frechet(other, few), rel=1e-6)
    assert frechet(few, other) > 0


def test_a_figure_is_the_median_of_the_draws_that_it_was_measured_of() -> None:
    draws = [
        {"sfron": {"others": (value, "%")}, **({"again": {"others": (7.0, "%")}} if value == 1.0 else {})}
        for value in (1.0, 5.0, 3.0)
    ]
    rows = rows_of(Sheet(command="make it", device="here"), draws)
    found = [(row.metric, row.value, row.low, row.high, row.n) for row in rows]
    assert found == [("sfron: others", 3.0, 1.0, 5.0, 3), ("again: others", 7.0, 7.0, 7.0, 1)]
