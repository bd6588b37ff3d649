"""What a course shows of itself while it runs, and the warnings that follow from it.

Traced because the released codes hid it: clipping was active on nearly all forget steps, so that the forget
rate hardly mattered, as it hardly does where nearly all are lifted; one record took all the weight; a forget
gradient was zero.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.unlearners.gradient.course import Gradients
from worker.unlearners.gradient.records import Side

MOST_CLIPPED = MOST_LIFTED = 0.9
LEAST_EFFECTIVE = 2.0
LEAST_FORGET_NORM = 1e-6


@dataclass(frozen=True)
class StepFigures:
    """One step of a phase: norms before the clip, in the unit of the gradient; ESS in records.

    ``factor`` is what the gradient was scaled by: below 1 it was clipped, above 1 lifted. ``effective`` is
    (sum w)^2 / sum w^2 over a weighted batch (Kish 1965), None where nothing is weighted.
    """

    phase: str
    loss: float
    norm: float
    factor: float
    is_forgetting: bool
    batch: int
    effective: float | None = None


@dataclass
class _Sums:
    num_steps: int = 0
    num_clipped: int = 0
    num_lifted: int = 0
    num_forgetting: int = 0
    num_weighted: int = 0
    norm: float = 0.0
    least_norm: float = math.inf
    first_loss: float | None = None
    last_loss: float | None = None
    least_effective: float | None = None

    def add(self, figures: StepFigures) -> None:
        self.num_steps += 1
        self.num_clipped += figures.factor < 1.0
        self.num_lifted += figures.factor > 1.0
        self.num_forgetting += figures.is_forgetting
        self.norm += figures.norm
        self.least_norm = min(self.least_norm, figures.norm)
        self.first_loss = figures.loss if self.first_loss is None else self.first_loss
        self.last_loss = figures.loss
        if figures.effective is not None and figures.batch > LEAST_EFFECTIVE:
            least = self.least_effective
            self.least_effective = figures.effective if least is None else min(least, figures.effective)


@dataclass
class Diagnostics:
    """The figures of a whole course, by phase; ``to_json`` and ``from_json`` carry them over a resume."""

    phases: dict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    cosines: list[float] = field(default_factory=list)
    masked_drift: float | None = None
    num_records: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, figures: StepFigures) -> None:
        """Take one step in."""
        self.phases[figures.phase].add(figures)

    def met(self, side: Side, num: int) -> None:
        """Count records that a step went forward and backward over."""
        self.num_records[side.value] += num

    def compare(self, forget: Gradients | None, retain: Gradients | None) -> None:
        """Note cos(g_forget, g_retain) of one cycle, where it had both."""
        if forget is not None and retain is not None:
            self.cosines.append(cosine(forget, retain))

    def drifted(self, drift: float) -> None:
        """Note how far a weight outside the mask has moved."""
        self.masked_drift = max(drift, self.masked_drift or 0.0)

    @property
    def total_records(self) -> int:
        """Records gone forward and backward over: the unit of cost."""
        return sum(self.num_records.values())

    def warnings(self) -> list[str]:
        """Return what a reader should know before trusting the course."""
        found = []
        for name, sums in self.phases.items():
            clipped, lifted = sums.num_clipped / sums.num_steps, sums.num_lifted / sums.num_steps
            if sums.num_forgetting and clipped > MOST_CLIPPED:
                found.append(f"{name}: {clipped:.0%} of the steps were clipped, so its rate hardly matters")
            if sums.num_forgetting and lifted > MOST_LIFTED:
                found.append(f"{name}: {lifted:.0%} of the steps were lifted, so its rate hardly matters")
            if sums.least_effective is not None and sums.least_effective < LEAST_EFFECTIVE:
                found.append(f"{name}: a batch came down to {sums.least_effective:.2f} effective records")
            if sums.num_forgetting and sums.least_norm < LEAST_FORGET_NORM:
                found.append(
                    f"{name}: a forget gradient had the norm {sums.least_norm:.1e}: nothing to follow"
                )
        if self.masked_drift:
            found.append(f"weights outside the mask moved by up to {self.masked_drift:.1e}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the figures as evidence shows them; numbers that JSON cannot hold become None."""
        return {
            "phases": {name: _shown(sums) for name, sums in self.phases.items()},
            "cosine": None if not self.cosines else _finite(sum(self.cosines) / len(self.cosines)),
            "masked_drift": self.masked_drift,
            "num_records": dict(self.num_records),
            "warnings": self.warnings(),
        }

    def state(self) -> dict[str, Any]:
        """Return everything that ``from_state`` needs to go on counting."""
        return {
            "phases": {name: _plain(sums) for name, sums in self.phases.items()},
            "cosines": list(self.cosines),
            "masked_drift": self.masked_drift,
            "num_records": dict(self.num_records),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Diagnostics":
        """Return what ``state`` wrote."""
        made = cls(cosines=list(state["cosines"]), masked_drift=state["masked_drift"])
        made.num_records.update(state["num_records"])
        made.phases.update({name: _sums(stored) for name, stored in state["phases"].items()})
        return made


def cosine(first: Gradients, second: Gradients) -> float:
    """Return the cosine between two gradients over all weights; 0.0 when one is zero."""
    products = [(first[name] * second[name]).sum() for name in first if name in second]
    norms = norm(first) * norm(second)
    return float(torch.stack(products).sum()) / norms if norms else 0.0


def norm(gradients: Gradients) -> float:
    """Return the Euclidean norm over all weights."""
    return float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients.values()])))


def effective_records(weights_B: Tensor) -> float:
    """Return (sum w)^2 / sum w^2."""
    return float(weights_B.sum() ** 2 / (weights_B**2).sum())


def _shown(sums: _Sums) -> dict[str, Any]:
    return {
        "num_steps": sums.num_steps,
        "clipped": round(sums.num_clipped / sums.num_steps, 4),
        "lifted": round(sums.num_lifted / sums.num_steps, 4),
        "mean_norm": _finite(sums.norm / sums.num_steps),
        "least_norm": _finite(sums.least_norm),
        "first_loss": _finite(sums.first_loss),
        "last_loss": _finite(sums.last_loss),
        "least_effective_records": _finite(sums.least_effective),
    }


def _plain(sums: _Sums) -> dict[str, Any]:
    """Numbers as JSON holds them; infinity, of a phase without steps, cannot occur."""
    return dict(vars(sums))


def _sums(stored: Mapping[str, Any]) -> _Sums:
    return _Sums(**stored)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
