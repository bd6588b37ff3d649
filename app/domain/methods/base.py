"""What the settings of every method share: frozen values, checked here, with unknown keys refused."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Settings:
    """The settings of one method. They are stored with the job and hashed into its version's manifest."""

    # Unknown keys are refused, not ignored (read by pydantic).
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Descent(Settings):
    """An optimizer: ``sgd`` with momentum, or ``adamw``, which ignores it."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require_above("learning_rate", self.learning_rate, 0)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_between("weight_decay", self.weight_decay, 0, 1)


def require_above(name: str, value: float, least: float) -> None:
    """Refuse what is not a finite number above ``least``; the message begins with the name."""
    if not least < value < math.inf:
        raise ValueError(f"{name} must be a number above {least}, not {value}")


def require_between(name: str, value: float, least: float, most: float) -> None:
    """Refuse what lies outside [least, most], or is not finite; the message begins with the name."""
    if not (least <= value <= most and math.isfinite(value)):
        raise ValueError(f"{name} must lie between {least} and {most}, not {value}")
