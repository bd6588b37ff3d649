"""The fit of the residual memory and the rule that stops retraining."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.policy import MIN_POINTS, StitchRule
from worker.unlearners.decay import fit_decay, fluctuation_exponent, rule_on

X = np.arange(1, 41, dtype=float)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_power_law_is_found_whatever_its_unit(exponent: float, scale: float) -> None:
    decay = fit_decay(scale * (3 * X**-exponent + 0.7))
    assert decay is not None
    found = (decay.exponent, decay.amplitude / scale, decay.floor / scale, decay.r_squared)
    assert found == pytest.approx((exponent, 3.0, 0.7, 1.0), rel=1e-4)


def test_the_slope_is_the_derivative_of_the_fitted_curve() -> None:
    decay = fit_decay(3 * X**-0.8 + 0.1)
    assert decay is not None
    assert decay.slope_at(9.0) == pytest.approx(3 * 0.8 * 9.0**-1.8, rel=1e-4)


@pytest.mark.parametrize(("exponent", "wrong"), [(0.25, 1.50), (0.5, 1.33), (1.0, 1.01), (2.0, 0.57)])
def test_the_fluctuation_exponent_is_not_the_exponent_of_the_decay(exponent: float, wrong: float) -> None:
    found = fluctuation_exponent(np.arange(1, 1001, dtype=float) ** -exponent)
    assert found is not None
    assert abs(found - exponent) > 0.2 or exponent == 1.0
    assert found == pytest.approx(wrong, abs=0.35)


def test_the_fluctuation_exponent_of_noise_is_a_half_and_of_its_sum_three_halves() -> None:
    noise = np.random.default_rng(0).normal(size=20_000)
    assert fluctuation_exponent(noise) == pytest.approx(0.5, abs=0.06)
    assert fluctuation_exponent(np.cumsum(noise)) == pytest.approx(1.5, abs=0.1)
    assert fluctuation_exponent([1.0, 2.0, 3.0]) is None


@given(st.integers(1, 60), st.floats(0.3, 3.0), st.floats(1e-3, 1e3))
def test_it_stops_exactly_where_the_derivative_has_fallen_to_epsilon(
    num: int, exponent: float, amplitude: float
) -> None:
    curve = amplitude * np.arange(1, num + 1, dtype=float) ** -exponent
    slope = amplitude * exponent * num ** (-exponent - 1)
    stops_above = rule_on(curve, StitchRule(epsilon=slope * 1.01)).stops
    stops_below = rule_on(curve, StitchRule(epsilon=slope * 0.99)).stops
    assert (stops_above, stops_below) == (num >= MIN_POINTS, False)


@pytest.mark.parametrize(
    ("residuals", "why"),
    [
        ([5.0, 4.0, 3.0], "too few points"),
        (list(np.arange(1.0, 20.0)), "the residuals do not fall"),
        ([9.0, *np.linspace(1, 4, 19)], "the residuals do not fall"),
        ([2.0] * 12, "the fit does not hold"),
        ([3.0, 1.0] * 4 + [2.9, 0.9] * 4, "the fit does not hold"),
        ([1.0] * 9 + [np.nan], "the residuals are not finite"),
        ([1.0] * 9 + [np.inf], "the residuals are not finite"),
    ],
)  # fmt: skip
def test_a_fit_that_does_not_hold_never_stops(residuals: list[float], why: str) -> None:
    ruling = rule_on(residuals, StitchRule(epsilon=1e9))
    assert (ruling.stops, ruling.why) == (False, why)


def test_records_that_moved_nothing_need_no_more_retraining() -> None:
    assert rule_on([0.0] * MIN_POINTS, StitchRule()).stops


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epsilon": 0.0}, "^epsilon"),
        ({"epsilon": float("nan")}, "^epsilon"),
        ({"min_points": MIN_POINTS - 1}, "^min_points"),
        ({"min_r_squared": 1.1}, "^min_r_squared"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_name(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        StitchRule(**settings)  # type: ignore[arg-type]
