"""The settings of the methods that compare the net with teachers."""

import math
from dataclasses import dataclass, field

from app.domain.methods.base import Descent, require_above, require_between
from app.domain.methods.courses import EpochSettings


@dataclass(frozen=True)
class BadTeacherSettings(EpochSettings):
    """Bad teacher (arXiv 2205.08096): epochs over the retained records, both sides in each step.

    ``temperature`` divides the logits of the net and of its teachers.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above("temperature", self.temperature, 0)


@dataclass(frozen=True)
class StochasticTeacherSettings(BadTeacherSettings):
    """Stochastic teacher (arXiv 2308.14322): ``erase_epochs`` over the forgotten, then ``epochs`` over the
    retained.
    """

    epochs: int = 20
    erase_epochs: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("erase_epochs", self.erase_epochs, 1, 100_000)


@dataclass(frozen=True)
class ScrubSettings(EpochSettings):
    """SCRUB (arXiv 2302.09880): each of the ``epochs`` goes over the retained, ``msteps`` also go over the
    forgotten, and the last over the retained alone.

    ``gamma`` weighs the cross-entropy of the retained, ``alpha`` their divergence from the original at a
    ``temperature``, which is multiplied by its square. Every gradient is clipped to the norm ``clip``, and
    the forget gradient lifted to ``lift``, which the paper does not do: near the original the divergence has
    hardly any, and far from it the way back is steep.
    """

    epochs: int = 20
    msteps: int = 15
    gamma: float = 1.0
    alpha: float = 0.5
    temperature: float = 2.0
    clip: float = 1.0
    lift: float = 1.0
    descent: Descent = field(default_factory=lambda: Descent(learning_rate=0.03))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("msteps", self.msteps, 1, self.epochs - 1)
        require_between("gamma", self.gamma, 0, math.inf)
        require_between("alpha", self.alpha, 0, math.inf)
        require_above("temperature", self.temperature, 0)
        require_above("clip", self.clip, 0)
        require_between("lift", self.lift, 0, self.clip)
