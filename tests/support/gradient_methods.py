"""Every gradient method on a small net, with few and small steps."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torch import nn

from app.domain.methods import SETTINGS, Descent, Settings
from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.method import Method, Prepared, Task
from worker.unlearners.gradient.records import Side, Sides
from worker.unlearners.gradient.runner import begin, run_course

SIDES: Sides = {
    Side.FORGET: blobs(10, seed=1),
    Side.RETAIN: blobs(20, seed=2),
    Side.HELD_OUT: blobs(12, seed=3),
}
NUM_CLASSES = 3

SMALL: Mapping[str, Any] = {
    "epochs": 3,
    "msteps": 2,
    "erase_epochs": 1,
    "cycles": 3,
    "steps": 3,
    "batch_size": 8,
    "stops": False,
    "selection": 1.0,
    "descent": Descent(learning_rate=0.05, momentum=0.9, weight_decay=0.01),
}
"""Few steps, and an optimizer that remembers and decays: what a mask or a resume must hold against."""


def small_settings(name: str, **others: Any) -> Settings:
    """Return a method's settings with everything small that it has."""
    settings = SETTINGS[name]()
    known = {field.name for field in fields(settings)}
    return replace(settings, **{key: value for key, value in {**SMALL, **others}.items() if key in known})


def task_of(net: nn.Module | None = None, *, sides: Sides = SIDES, seed: int = 0) -> Task:
    """Return a task on blobs."""
    return Task(small_net() if net is None else net, sides, num_classes=NUM_CLASSES, seed=seed)


def prepared(method: Method, task: Task, **others: Any) -> Prepared:
    """Return what a method would run with small settings."""
    return method.prepare(task, small_settings(method.name, **others))


def unlearned(method: Method, task: Task, **others: Any) -> nn.Module:
    """Return the net that a method ends with."""
    made = prepared(method, task, **others)
    if isinstance(made.work, Course):
        run_course(begin(made.net, made.work), made.work, task.sides, seed=task.seed)
    else:
        run_edit(made.net, made.work, task.sides)
    return made.finish(made.net)
