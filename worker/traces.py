"""The trace of a job: of stitching as text and as a picture, of a gradient method as text."""

from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sqlalchemy.orm import Session

from app.db.session import reading
from app.db.tables import Job
from app.domain.errors import NotFound
from app.domain.terms import JsonObject, TenantName
from worker.installation import Installation

mpl.use("agg")
_INCHES = (7.0, 3.6)


def trace_of(own: Installation, job_id: str, *, tenant: TenantName) -> list[JsonObject]:
    """Return what a job measured, one entry a shard.

    Raises:
        NotFound: the tenant has no such job, or it measured nothing.
    """
    with reading(own.sessions) as session:
        outputs = _outputs(session, job_id, tenant=tenant)
    refused = outputs.get("refused", {}).get("attempts", [])
    unlearned = outputs.get("unlearn", {})
    trace = (
        unlearned.get("trace")
        or unlearned.get("course")
        or next((a["trace"] for a in refused if a.get("trace")), None)
    )
    if not trace:
        raise NotFound(
            f"{job_id} has no trace: its method is exact, it has not unlearned yet, or training had met none "
            "of those it was for"
        )
    return cast("list[JsonObject]", trace)


def lines_of(trace: list[JsonObject]) -> list[str]:
    """Return one line a shard, and of a course one more for each phase and each warning."""
    return [line for shard in trace for line in ([_line(shard)] if _is_stitched(shard) else _course(shard))]


def draw(trace: list[JsonObject], path: Path) -> None:
    """Write a picture of every touched shard's residuals, their fit and where retraining stopped.

    Raises:
        ValueError: the file cannot be written, or no shard was stitched.
    """
    if not any(map(_is_stitched, trace)):
        raise ValueError("only what stitching measured can be drawn: this job treated with gradients")
    touched = [cast("dict[str, Any]", shard) for shard in trace if shard["residuals"]]
    num_rows = max(1, len(touched))
    figure = Figure(figsize=(_INCHES[0], _INCHES[1] * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, squeeze=False)[:, 0]
    for place, shard in zip(axes, touched, strict=False):
        _draw_shard(place, shard)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error}") from error


def _outputs(session: Session, job_id: str, *, tenant: TenantName) -> dict[str, Any]:
    job = session.get(Job, job_id)
    if job is None or job.tenant != tenant:
        raise NotFound(f"no job {job_id}")
    return job.outputs


def _is_stitched(shard: JsonObject) -> bool:
    return "residuals" in shard


def _course(shard: Any) -> list[str]:
    """Return what a course or an edit of one shard shows of itself."""
    records = ", ".join(f"{num} of {side}" for side, num in shard["num_records"].items())
    head = f"shard {shard['shard']}: records gone over, each as often as it was met: {records}"
    if "num_cycles" in shard:
        end = "until the forgotten looked unseen" if shard["is_stopped"] else "up to a bound in its settings"
        head += f"; {shard['num_cycles']} cycles, {end}"
    phases = [_phase(name, phase) for name, phase in shard.get("phases", {}).items()]
    return [head, *phases, *(f"  warning: {warning}" for warning in shard["warnings"])]


def _phase(name: str, phase: Any) -> str:
    steps = f"{phase['num_steps']} steps, {phase['clipped']:.0%} clipped"
    losses = f"loss {_figure(phase['first_loss'])} to {_figure(phase['last_loss'])}"
    return f"  {name}: {steps}, {losses}, mean gradient {_figure(phase['mean_norm'])}"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _line(shard: JsonObject) -> str:
    stopped = shard["stopped_after"]
    end = "ran to its end" if stopped is None else f"stopped after block {stopped}"
    return f"shard {shard['shard']}: {shard['num_blocks']} blocks, {end}: {shard['why']}{_judged(shard)}"


def _judged(shard: Any) -> str:
    """Say what the last fit showed beside what the rule asks for."""
    decay, rule = shard["decay"], shard["rule"]
    if decay is None or shard["slope"] is None:
        return ""
    figures = {
        "slope": (shard["slope"], "epsilon"),
        "R²": (decay["r_squared"], "min_r_squared"),
        "points": (shard["num_points"], "min_points"),
    }
    said = [f"{name} {value:.3g} for {bound} {rule[bound]:g}" for name, (value, bound) in figures.items()]
    return f" ({', '.join(said)})"


def _draw_shard(axes: Axes, shard: dict[str, Any]) -> None:
    residuals, first = shard["residuals"], shard["touched"][0]
    positions = np.arange(first, first + len(residuals))
    axes.plot(positions, residuals, ".", color="black", label="residual memory")
    for number, position in enumerate(shard["touched"]):
        label = "" if number else "forgotten records"
        axes.axvline(position, color="tab:red", linewidth=0.8, linestyle=":", label=label)
    if decay := shard["decay"]:
        x = np.arange(1, shard["num_points"] + 1, dtype=float)
        fitted = decay["amplitude"] * x ** -decay["exponent"] + decay["floor"]
        label = f"h = {decay['exponent']:.2f}, R² = {decay['r_squared']:.2f}"
        if shard["slope"] is not None:
            label += f", slope {shard['slope']:.3g} (epsilon {shard['rule']['epsilon']:g})"
        axes.plot(shard["touched"][-1] + x - 1, fitted, color="tab:blue", label=label)
    if shard["stopped_after"] is not None:
        axes.axvline(shard["stopped_after"], color="tab:green", label="stitched here")
    axes.set(xlabel="block", ylabel="L1 distance", title=f"shard {shard['shard']}: {shard['why']}")
    axes.legend()
