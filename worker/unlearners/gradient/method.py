"""A method: what it reads, its settings, and how it makes a course or an edit from a net and records.

A new method is one file with one ``Method`` in it, and a row in the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import nn

from app.domain.methods import Descent
from worker.training.recipe import AdamwPart, OptimizerPart, SgdPart
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.edit import Edit
from worker.unlearners.gradient.records import Records, Side, Sides


class Reads(StrEnum):
    """What a method asks for. It is tested to touch nothing else."""

    FORGET = "forget"
    FORGET_LABELS = "forget_labels"
    RETAIN = "retain"
    RETAIN_LABELS = "retain_labels"
    HELD_OUT = "held_out"

    @property
    def side(self) -> Side:
        """Whose records these are."""
        return Side(self.value.removesuffix("_labels"))


class MethodDoesNotFit(ValueError):
    """The method cannot be applied to this net or these inputs; the message says why."""


@dataclass(frozen=True)
class Task:
    """What a method works on. ``net`` is the original, and is changed in place by the course.

    ``corrected`` are those of the retained that stand in the place of forgotten ones, after a rectification;
    only the influence methods ask for them.
    """

    net: nn.Module
    sides: Sides
    num_classes: int
    seed: int
    corrected: Records | None = None


def unchanged(net: nn.Module) -> nn.Module:
    """Return the net as it is."""
    return net


@dataclass(frozen=True)
class Prepared:
    """What is to be run, on which net, and how that net becomes the one that is published.

    ``finish`` returns a net of the original's shape.
    """

    net: nn.Module
    work: Course | Edit
    finish: Callable[[nn.Module], nn.Module] = field(default=unchanged)


@dataclass(frozen=True)
class Method:
    """One gradient method; ``source`` is the paper and its equations.

    ``prepare`` is a pure function of the task and the settings: a resumed job prepares again.
    """

    name: str
    source: str
    settings: type[Any]
    reads: frozenset[Reads]
    prepare: Callable[[Task, Any], Prepared]


def optimizer_of(settings: Descent) -> OptimizerPart:
    """Return the optimizer as the training's own code builds it."""
    if settings.name == "adamw":
        return AdamwPart(
            name="adamw", learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
    return SgdPart(
        name="sgd",
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
