"""Term, Phase, Course: iterative gradient unlearning as data. The runner is elsewhere.

    theta <- theta - eta P( m * sum_j s_j grad mean_i w_ji l_j(theta; z_i) )

A term is one j: a side's records, their losses, the scale s and the weights w. A phase is the sum of terms
for some steps, with its optimizer, mask m and clip. A course repeats a cycle of phases.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from torch import Tensor, nn

from worker.training.recipe import OptimizerPart, SchedulePart
from worker.unlearners.gradient.losses import Loss
from worker.unlearners.gradient.records import Side

Mask = Mapping[str, Tensor]
"""Which weights may move, by name: True moves. A weight that is not named stays."""

Gradients = dict[str, Tensor]

CONSTANT_RATE = SchedulePart(name="constant")

Weigh = Callable[[Tensor], Tensor]
"""Losses (B,), detached -> the weights (B,) of their records, of mean 1."""


class Mode(StrEnum):
    """How dropout and BatchNorm behave in a phase. FROZEN_NORM trains, but no buffer takes anything in."""

    TRAIN = "train"
    FROZEN_NORM = "frozen_norm"
    EVAL = "eval"


class Fade(StrEnum):
    """How a phase's scale falls over the course."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"

    def at(self, progress: float) -> float:
        """Return the factor at a progress in [0, 1)."""
        match self:
            case Fade.CONSTANT:
                return 1.0
            case Fade.COSINE:
                return 0.5 * (1.0 + math.cos(math.pi * progress))
            case Fade.LINEAR:
                return 1.0 - progress


@dataclass(frozen=True)
class Term:
    """``scale`` times the mean of weighted losses over a batch of one side; a scale below 0 ascends."""

    side: Side
    loss: Loss
    scale: float = 1.0
    weigh: Weigh | None = None


@dataclass(frozen=True)
class Phase:
    """``steps`` steps on the sum of its terms. Terms of one side share a batch.

    ``optimizer`` names one of the course's: phases that name the same one share its momentum; its learning
    rate follows ``schedule`` over the phase's steps. The gradient is masked first, then clipped to the norm
    ``clip``, or scaled up to the norm ``lift``, which fades as the terms do. ``penalty`` is added to the
    sum, ``project`` changes gradients in place. In cycles from ``until`` on the phase is left out.
    """

    name: str
    terms: tuple[Term, ...]
    steps: int = 1
    optimizer: str = "retain"
    is_masked: bool = False
    clip: float | None = None
    lift: float = 0.0
    mode: Mode = Mode.TRAIN
    fade: Fade = Fade.CONSTANT
    schedule: SchedulePart = CONSTANT_RATE
    penalty: Callable[[nn.Module, float], Tensor] | None = None
    project: Callable[[Gradients], None] | None = None
    until: int | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Whose records it draws, in the order of its terms."""
        return tuple(dict.fromkeys(term.side for term in self.terms))


class Stop(Protocol):
    """Looks at the net after each cycle and after the ending, without changing it."""

    def is_reached(self, net: nn.Module) -> bool:
        """Whether the course ends here."""
        ...


@dataclass(frozen=True)
class Course:
    """``repeats`` times the cycle; after each, theta <- anchor + slow_rate (theta - anchor).

    ``batch_sizes`` are those of the sides; ``saliency`` is the mask of the masked phases. ``ending`` is run
    when the last cycle is over or the rule has stopped it; where the rule does not hold any more after it,
    cycles go on, until it has been run ``most_endings`` times.
    """

    cycle: Sequence[Phase]
    repeats: int
    optimizers: Mapping[str, OptimizerPart]
    batch_sizes: Mapping[Side, int]
    saliency: Mask | None = None
    slow_rate: float = 1.0
    stop: Stop | None = None
    ending: Sequence[Phase] = ()
    most_endings: int = 1

    def phases_of(self, cycle: int) -> list[Phase]:
        """Return the phases of one cycle."""
        return [phase for phase in self.cycle if phase.until is None or cycle < phase.until]
