"""Courses that count in epochs: what the methods share that are an epoch of this and an epoch of that."""

from collections.abc import Sequence

from app.domain.methods import EpochSettings
from worker.unlearners.gradient.course import Course, Mask, Mode, Phase, Term
from worker.unlearners.gradient.method import Task, optimizer_of
from worker.unlearners.gradient.records import Side, batches_in


def epoch_course(
    cycle: Sequence[Phase],
    settings: EpochSettings,
    *,
    mask: Mask | None = None,
    forget_batch: int | None = None,
) -> Course:
    """Return the course of ``epochs`` cycles; the phases' optimizers are apart, and of one kind."""
    part = optimizer_of(settings.descent)
    size = settings.batch_size
    return Course(
        cycle=tuple(cycle),
        repeats=settings.epochs,
        optimizers={"forget": part, "retain": part},
        batch_sizes={Side.FORGET: forget_batch or size, Side.RETAIN: size},
        saliency=mask,
    )


def retain_epoch(task: Task, settings: EpochSettings, *terms: Term) -> Phase:
    """Return the phase that meets every retained record once."""
    return Phase(name="retain", terms=terms, steps=steps_over(task, Side.RETAIN, settings))


def forget_epoch(task: Task, settings: EpochSettings, *terms: Term) -> Phase:
    """Return the phase that meets every forgotten record once; no buffer takes them in."""
    return Phase(
        name="forget",
        terms=terms,
        steps=steps_over(task, Side.FORGET, settings),
        optimizer="forget",
        mode=Mode.FROZEN_NORM,
    )


def joint_epoch(task: Task, settings: EpochSettings, *terms: Term, clip: float | None = None) -> Phase:
    """Return the phase that meets every retained record once, with a forget batch in each of its steps.

    No buffer takes anything in: the forgotten are in every step.
    """
    return Phase(
        name="joint",
        terms=terms,
        steps=steps_over(task, Side.RETAIN, settings),
        clip=clip,
        mode=Mode.FROZEN_NORM,
    )


def steps_over(task: Task, side: Side, settings: EpochSettings) -> int:
    """Return how many batches meet every record of a side once."""
    return batches_in(task.sides[side], batch_size=settings.batch_size)
