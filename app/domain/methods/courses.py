"""The settings of the methods that run a course."""

import math
from dataclasses import dataclass, field
from typing import Literal

from app.domain.methods.base import Descent, Settings, require_above, require_between


@dataclass(frozen=True)
class SfronSettings(Settings):
    """SFR-on (arXiv 2409.19732). ``floor_nats`` and ``power`` weigh a record by max(loss, floor)^-power.

    ``gamma`` is the least ratio of forget to retain Fisher information of a weight that may move;
    ``retain_steps`` follow each forget step; ``slow_rate`` 1 takes each cycle whole. A cycle is one forget
    step and its retain steps; at most ``cycles`` are run. A forget gradient is scaled into the norms from
    ``lift`` to ``clip``: of a fully fitted record it is nearly nothing. ``stops`` ends the cycles when the
    forgotten look like unseen records; ``repair_steps`` on the retained follow. ``shares_optimizer`` and
    ``fisher = batch`` are as in the released code, for comparison only.
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
    repair_steps: int = 100
    forget: Descent = field(default_factory=lambda: Descent(learning_rate=0.01, momentum=0.0))
    retain: Descent = field(default_factory=lambda: Descent(learning_rate=0.02))

    def __post_init__(self) -> None:
        require_above("forget_rate", self.forget_rate, 0)
        require_between("floor_nats", self.floor_nats, 0, math.inf)
        require_between("power", self.power, 0, 10)
        require_between("gamma", self.gamma, 0, math.inf)
        require_between("retain_steps", self.retain_steps, 0, 10_000)
        require_between("slow_rate", self.slow_rate, 0, 1)
        require_above("clip", self.clip, 0)
        require_between("repair_steps", self.repair_steps, 0, 1_000_000)
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
        repair_steps=0,
        retain=Descent(learning_rate=0.01),
    )
