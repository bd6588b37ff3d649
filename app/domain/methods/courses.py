"""The settings of the methods that run a course."""

import math
from dataclasses import dataclass, field
from typing import Literal

from app.domain.methods.base import Descent, Settings, require_above, require_between


@dataclass(frozen=True)
class EpochSettings(Settings):
    """What the methods share that count in epochs; each says which records its epochs go over.

    A batch holds ``batch_size`` records of each side, and ``descent`` is the optimizer of every step.
    """

    epochs: int = 10
    batch_size: int = 64
    descent: Descent = field(default_factory=Descent)

    def __post_init__(self) -> None:
        require_between("epochs", self.epochs, 1, 100_000)
        require_between("batch_size", self.batch_size, 1, 1_000_000)


@dataclass(frozen=True)
class FinetuneSettings(EpochSettings):
    """Finetuning: epochs over the retained records alone."""


@dataclass(frozen=True)
class L1SparseSettings(EpochSettings):
    """Finetuning with gamma_t |theta|_1 (arXiv 2304.04934).

    ``gamma`` is the penalty in nats for each unit of |theta|_1 in the first epoch; it falls linearly. The
    default is for small nets, of which |theta|_1 is small; those of the paper's nets are lower.
    """

    epochs: int = 20
    gamma: float = 1e-3
    descent: Descent = field(default_factory=lambda: Descent(learning_rate=0.05))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("gamma", self.gamma, 0, math.inf)


@dataclass(frozen=True)
class GradientAscentSettings(Settings):
    """Gradient ascent on the forgotten records: at most ``steps`` batches of ``batch_size`` records.

    The gradient is scaled into the norms from ``lift`` to ``clip``: of a fully fitted record it is nearly
    nothing. ``stops`` ends the course when the forgotten look like unseen records; without it the net
    collapses, or nothing happens.
    """

    steps: int = 200
    batch_size: int = 64
    clip: float = 1.0
    lift: float = 1.0
    stops: bool = True
    descent: Descent = field(default_factory=lambda: Descent(learning_rate=0.01, momentum=0.0))

    def __post_init__(self) -> None:
        require_between("steps", self.steps, 1, 1_000_000)
        require_between("batch_size", self.batch_size, 1, 1_000_000)
        require_above("clip", self.clip, 0)
        require_between("lift", self.lift, 0, self.clip)


@dataclass(frozen=True)
class NeggradPlusSettings(EpochSettings):
    """NegGrad+ (arXiv 2302.09880): ascent and descent in one step, in epochs over the retained records.

    ``retain_share`` is a in (1 - a)(-CE_f) + a CE_r. The sum's gradient is scaled into the norms from
    ``lift`` to ``clip``: where everything is fitted fully it is nearly nothing. ``stops`` ends the course
    when the forgotten look like unseen records: the ascent has no bound of its own. The paper tunes a, often
    to 0.95; here a forget batch is in every step, so that a small forget set is met more often.
    """

    retain_share: float = 0.99
    clip: float = 1.0
    lift: float = 1.0
    stops: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("retain_share", self.retain_share, 0, 1)
        require_above("clip", self.clip, 0)
        require_between("lift", self.lift, 0, self.clip)


@dataclass(frozen=True)
class NpoKlrSettings(EpochSettings):
    """Negative preference (arXiv 2404.05868) with KL to the original, in epochs over the retained records.

    ``beta`` bounds the ascent: near 0 it is plain ascent, and the larger it is, the sooner a record that
    has become less likely than it was is left alone. ``retain_weight`` weighs the divergence on the
    retained, and the sum's gradient is clipped to the norm ``clip``.
    """

    beta: float = 0.1
    retain_weight: float = 1.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above("beta", self.beta, 0)
        require_between("retain_weight", self.retain_weight, 0, math.inf)
        require_above("clip", self.clip, 0)


@dataclass(frozen=True)
class SfronSettings(Settings):
    """SFR-on (arXiv 2409.19732). ``floor_nats`` and ``power`` weigh a record by max(loss, floor)^-power.

    ``gamma`` is the least ratio of forget to retain Fisher information of a weight that may move;
    ``retain_steps`` follow each forget step; ``slow_rate`` 1 takes each cycle whole. A cycle is one forget
    step and its retain steps; at most ``cycles`` are run. A forget gradient is scaled into the norms from
    ``lift`` to ``clip``: of a fully fitted record it is nearly nothing. ``stops`` ends the cycles when the
    forgotten look like unseen records. What only they held up is then let go: ``erase_steps`` on the
    retained decay all weights by ``erase_decay``, or by the decay of ``retain`` where that is more, and
    ``repair_steps`` follow, at a rate that falls to nothing as a cosine. Where these bring back what was
    forgotten, more cycles and another such ending follow, ``repairs`` times at most in all. What is left of
    a weight depends on rate and momentum too: .37 of one without a gradient, by the defaults.
    Gradients on the retained are clipped to the norm ``retain_clip``, 0 leaves them as they are.
    ``shares_optimizer`` and ``fisher = batch`` are as in the released code, for comparison only.
    """

    forget_rate: float = 25.0
    floor_nats: float = 0.1
    power: float = 0.5
    gamma: float = 1.0
    retain_steps: int = 5
    slow_rate: float = 1.0
    clip: float = 7.0
    lift: float = 1.0
    cycles: int = 300
    batch_size: int = 128
    shares_optimizer: bool = False
    fisher: Literal["record", "batch"] = "record"
    stops: bool = True
    erase_steps: int = 100
    erase_decay: float = 0.02
    repair_steps: int = 300
    repairs: int = 5
    retain_clip: float = 5.0
    forget: Descent = field(default_factory=lambda: Descent(learning_rate=0.01, momentum=0.0))
    retain: Descent = field(default_factory=lambda: Descent(learning_rate=0.05))

    def __post_init__(self) -> None:
        require_above("forget_rate", self.forget_rate, 0)
        require_between("floor_nats", self.floor_nats, 0, math.inf)
        require_between("power", self.power, 0, 10)
        require_between("gamma", self.gamma, 0, math.inf)
        require_between("retain_steps", self.retain_steps, 0, 10_000)
        require_between("slow_rate", self.slow_rate, 0, 1)
        require_above("clip", self.clip, 0)
        require_between("lift", self.lift, 0, self.clip)
        require_between("erase_steps", self.erase_steps, 0, 1_000_000)
        require_between("erase_decay", self.erase_decay, 0, 1)
        require_between("repair_steps", self.repair_steps, 0, 1_000_000)
        require_between("retain_clip", self.retain_clip, 0, math.inf)
        require_between("repairs", self.repairs, 1, 1_000_000)
        require_between("cycles", self.cycles, 1, 1_000_000)
        require_between("batch_size", self.batch_size, 1, 1_000_000)


def released() -> SfronSettings:
    """Return the settings of the code released with the paper, which forgets nothing that is fitted fully."""
    return SfronSettings(
        floor_nats=0.0,
        lift=0.0,
        slow_rate=1.0,
        shares_optimizer=True,
        fisher="batch",
        stops=False,
        erase_steps=0,
        repair_steps=0,
        retain_clip=0.0,
        retain=Descent(learning_rate=0.01),
    )
