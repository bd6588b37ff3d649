"""The settings of the courses that may only move along some directions, or in few."""

from dataclasses import dataclass, field

from app.domain.methods.base import Descent, Settings, require_above, require_between


@dataclass(frozen=True)
class ProjectedGradientSettings(Settings):
    """PGU (arXiv 2312.04095). Of each layer's retained inputs the leading directions are kept that have the
    share ``energy`` of their squares: 1 keeps all, and leaves nothing to move where there are more records
    than inputs. At most ``steps`` steps of SGD are taken on batches of ``batch_size`` forgotten records, with
    gradients clipped to the norm ``clip``; there is no weight decay, which would not be projected. ``stops``
    ends the course when the forgotten look like unseen records.
    """

    energy: float = 0.9
    learning_rate: float = 0.01
    momentum: float = 0.9
    clip: float = 7.0
    steps: int = 300
    batch_size: int = 128
    stops: bool = True

    def __post_init__(self) -> None:
        require_between("energy", self.energy, 0, 1)
        require_above("learning_rate", self.learning_rate, 0)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_above("clip", self.clip, 0)
        require_between("steps", self.steps, 1, 1_000_000)
        require_between("batch_size", self.batch_size, 1, 1_000_000)


@dataclass(frozen=True)
class LoraResidualSettings(Settings):
    """Residual feature alignment (arXiv 2411.08443). Adapters of ``rank`` and ``scale`` (LoRA's r and alpha)
    learn for at most ``steps`` steps on a batch of either side; ``forget_weight`` multiplies the loss of the
    forgotten. ``stops`` ends the course when the forgotten look like unseen records.
    """

    rank: int = 16
    scale: float = 16.0
    forget_weight: float = 2.0
    steps: int = 300
    batch_size: int = 128
    stops: bool = True
    descent: Descent = field(default_factory=lambda: Descent(name="adamw", learning_rate=0.005))

    def __post_init__(self) -> None:
        require_between("rank", self.rank, 1, 4096)
        require_above("scale", self.scale, 0)
        require_above("forget_weight", self.forget_weight, 0)
        require_between("steps", self.steps, 1, 1_000_000)
        require_between("batch_size", self.batch_size, 1, 1_000_000)
