"""The residual memory of a forgotten record, its power-law decay, and when retraining may stop.

Y(x) = a x^(-h) + b over x = 1, 2, ... blocks since the last touched one (He et al. 2021, arXiv 2105.06209,
section 4); retraining stops where |Y'(x)| = a h x^(-h-1) falls to epsilon and the fit holds.

Promises: pure functions of the residuals. Never: a claim about the tail that was not retrained. The
derivative test does not bound it, and the decay need not go on.

Shape suffixes: n residuals so far, h exponents tried.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from app.domain.policy import StitchRule
from app.domain.terms import JsonObject

Floats = npt.NDArray[np.float64]

_EXPONENTS = np.geomspace(0.02, 10.0, 40)
# A start must lie inside the bounds.
_INSIDE = 1e-9
# A negative exponent is allowed to the fit, so that residuals that grow are seen to, and refused.
_LEAST_EXPONENT, _GREATEST_EXPONENT = -4.0, 20.0
_LEAST_WINDOW = 4


@dataclass(frozen=True)
class Decay:
    """The fitted a, h, b, in the unit of the residuals; ``r_squared_rest`` leaves the first point out.

    ``fluctuation`` is the exponent of detrended fluctuation analysis over the same points, the smoothing of
    the paper: a diagnostic, not the exponent of the decay.
    """

    amplitude: float
    exponent: float
    floor: float
    r_squared: float
    r_squared_rest: float
    fluctuation: float | None

    def slope_at(self, x: float) -> float:
        """Return |Y'(x)| = a h x^(-h-1), residual a block."""
        return float(self.amplitude * self.exponent * x ** (-self.exponent - 1))

    def to_json(self) -> JsonObject:
        """Return it as a trace keeps it."""
        return asdict(self)


@dataclass(frozen=True)
class Ruling:
    """Whether retraining stops after the residuals so far, why, and the fit that said so."""

    stops: bool
    why: str
    decay: Decay | None = None
    slope: float | None = None


def rule_on(residuals: Sequence[float], rule: StitchRule) -> Ruling:
    """Judge the residuals since the last touched block, the newest last."""
    if len(residuals) < rule.min_points:
        return Ruling(stops=False, why="too few points")
    decay = fit_decay(residuals)
    if decay is None:
        return Ruling(stops=False, why="the residuals are not finite")
    slope = decay.slope_at(len(residuals))
    why = _objection(residuals, decay, rule=rule, slope=slope)
    return Ruling(stops=not why, why=why or "the decay has flattened", decay=decay, slope=slope)


def fit_decay(residuals: Sequence[float]) -> Decay | None:
    """Return the bounded least-squares fit of a, h and b together; None when a residual is not finite."""
    y_n = np.asarray(residuals, dtype=np.float64)
    if not np.isfinite(y_n).all():
        return None
    x_n = np.arange(1, len(y_n) + 1, dtype=np.float64)
    scale = float(y_n.max()) or 1.0
    a, h, b = _best_fit(x_n, y_n / scale)
    fitted_n = scale * (a * x_n**-h + b)
    return Decay(
        amplitude=scale * a,
        exponent=h,
        floor=scale * b,
        r_squared=_r_squared(y_n, fitted_n),
        r_squared_rest=_r_squared(y_n[1:], fitted_n[1:]),
        fluctuation=fluctuation_exponent(y_n),
    )


def fluctuation_exponent(values: Floats | Sequence[float]) -> float | None:
    """Return the exponent of detrended fluctuation analysis (Peng et al. 1994); None for too few values.

    White noise gives 0.5, its running sum 1.5.
    """
    y_n = np.asarray(values, dtype=np.float64)
    profile_n = np.cumsum(y_n - y_n.mean())
    widths = np.unique(np.geomspace(_LEAST_WINDOW, max(_LEAST_WINDOW, len(y_n) // 2), 8).astype(int))
    found = [(width, _fluctuation(profile_n, width=int(width))) for width in widths if width * 2 <= len(y_n)]
    found = [(width, size) for width, size in found if size > 0]
    if len(found) < 2:
        return None
    slope, _ = np.polyfit(np.log([width for width, _ in found]), np.log([size for _, size in found]), 1)
    return float(slope)


def _objection(residuals: Sequence[float], decay: Decay, *, rule: StitchRule, slope: float) -> str:
    """Return why retraining must go on, or nothing."""
    if not any(residuals):
        return ""  # the records moved nothing: there is nothing that could decay
    if decay.exponent <= 0 or decay.amplitude <= 0 or _rises(residuals):
        return "the residuals do not fall"
    if decay.r_squared < rule.min_r_squared:
        return "the fit does not hold"
    return "" if slope <= rule.epsilon else "the decay is still steep"


def _rises(residuals: Sequence[float]) -> bool:
    half = len(residuals) // 2
    return float(np.median(residuals[half:])) > float(np.median(residuals[:half]))


def _best_fit(x_n: Floats, y_n: Floats) -> tuple[float, float, float]:
    """Return a, h, b, from the best start on a grid of exponents; ``y_n`` is at most 1."""
    from scipy.optimize import least_squares  # a third of a second in every process, for one method alone

    def errors(parameters: Floats) -> Floats:
        a, h, b = parameters
        return np.asarray(a * x_n**-h + b - y_n)

    def slopes(parameters: Floats) -> Floats:
        a, h, _ = parameters
        powers_n = x_n**-h
        return np.stack([powers_n, -a * np.log(x_n) * powers_n, np.ones_like(x_n)], axis=1)

    bounds = ([0.0, _LEAST_EXPONENT, 0.0], [math.inf, _GREATEST_EXPONENT, math.inf])
    a, h, b = least_squares(errors, _start(x_n, y_n), jac=slopes, bounds=bounds).x
    return float(a), float(h), float(b)


def _start(x_n: Floats, y_n: Floats) -> tuple[float, float, float]:
    """Return the best a, h, b on a grid of h: for a given h the other two are a straight line's."""
    powers_hn = x_n[None, :] ** -_EXPONENTS[:, None]
    spread_hn = powers_hn - powers_hn.mean(axis=1, keepdims=True)
    variance_h = np.maximum((spread_hn**2).sum(axis=1), np.finfo(np.float64).tiny)
    a_h = np.maximum(spread_hn @ (y_n - y_n.mean()) / variance_h, _INSIDE)
    b_h = np.maximum(y_n.mean() - a_h * powers_hn.mean(axis=1), _INSIDE)
    errors_h = ((a_h[:, None] * powers_hn + b_h[:, None] - y_n) ** 2).sum(axis=1)
    best = int(errors_h.argmin())
    return float(a_h[best]), float(_EXPONENTS[best]), float(b_h[best])


def _r_squared(y_n: Floats, fitted_n: Floats) -> float:
    """Return 1 - squared error / variance; for values that do not vary 1 if all is hit, else 0."""
    error, spread = float(((y_n - fitted_n) ** 2).sum()), float(((y_n - y_n.mean()) ** 2).sum())
    if spread == 0.0:
        return float(error == 0.0)
    return 1.0 - error / spread


def _fluctuation(profile_n: Floats, *, width: int) -> float:
    """Return the root mean square distance of a profile from its straight lines in windows of a width."""
    num = len(profile_n) // width
    windows = profile_n[: num * width].reshape(num, width).T
    places = np.arange(width)
    slopes, offsets = np.polyfit(places, windows, 1)
    return float(np.sqrt(((windows - places[:, None] * slopes - offsets) ** 2).mean()))
