"""What the settings of every method share: frozen values, checked here, with unknown keys refused."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Settings:
    """The settings of one method. They are stored with the job and hashed into its version's manifest."""


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


_S = TypeVar("_S", bound=Settings)


def require_above(name: str, value: float, least: float) -> None:
    """Refuse what is not a finite number above ``least``; the message begins with the name."""
    if not least < value < math.inf:
        raise ValueError(f"{name} must be a number above {least}, not {value}")


def require_between(name: str, value: float, least: float, most: float) -> None:
    """Refuse what lies outside [least, most], or is not finite; the message begins with the name."""
    if not (least <= value <= most and math.isfinite(value)):
        raise ValueError(f"{name} must lie between {least} and {most}, not {value}")


def settings_from(kind: type[_S], values: Mapping[str, Any]) -> _S:
    """Return settings read from a table of a recipe or a policy; what is not named has its default.

    Raises:
        ValueError: a field is unknown or cannot have its value; the message begins with the field.
    """
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"{name}: unknown field, choose from {', '.join(known)}")
    return kind(**{name: _checked(name, value, types[name]) for name, value in values.items()})


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return a value as a field wants it: a table as settings, a whole number as a float where one is due."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: must be a table, not {value!r}")
        try:
            return settings_from(kind, value)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from error
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name}: choose one of {', '.join(map(str, get_args(kind)))}, not {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{name}: is too large a number") from error
    if type(value) is not kind:
        raise ValueError(f"{name}: must be a {kind.__name__}, not {value!r}")
    return value
