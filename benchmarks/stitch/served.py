"""Claim to published, through the service: what a stitch takes beside its blocks, and the exact job after it.

MNIST, LeNet-5, B = 1 000, full checkpoints of every block; a worker forgets subjects one after the other,
each published twice. The denominators are the training of the same recipe and the exact job of the same
deletion, all in one run.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track

from app.domain.status import JobKind
from benchmarks.homes import RECIPES, Home, fill, mnist_table, temporary_home
from benchmarks.inside import JobFigures, last_job, subjects_in_plan
from benchmarks.results import Row, Sheet

MODEL, SEED, NUM_SUBJECTS = "mnist-stitch", 21, 12


@dataclass(frozen=True)
class Served:
    """The two jobs of one deletion."""

    interim: JobFigures
    settle: JobFigures

    @property
    def is_stitched(self) -> bool:
        """Whether the interim job stopped before the end."""
        return self.interim.num_blocks < self.settle.num_blocks


def measure() -> tuple[JobFigures, list[Served]]:
    """Return the figures of the training and of every deletion."""
    table = mnist_table()
    with temporary_home() as home:
        fill(home, table)
        home.processes.run("expunge-worker", "train", str(RECIPES / f"{MODEL}.toml"))
        training = last_job(home.own, JobKind.TRAIN)
        home.processes.start("expunge-worker", "work")
        names = _subjects(home, table.subject_ids)
        return training, [_forget(home, name) for name in track(names, description="forgetting")]


def rows_of(made: Sheet, training: JobFigures, served: Sequence[Served]) -> list[Row]:
    """Return blocks and seconds as two ratios with the fixed part beside them, of stitched ones apart too."""
    mean_blocks = statistics.fmean(each.interim.num_blocks for each in served)
    settled = [each.settle.seconds for each in served]
    cuts = {"all": served, "stitched": [each for each in served if each.is_stitched]}
    rows = [
        made.one(
            "served: B / mean blocks run", training.num_blocks / mean_blocks, unit="x",
            baseline=f"interim, {len(served)} deletions",
        ),
        made.median("served: claim to completed", settled, unit="s", baseline="exact"),
    ]  # fmt: skip
    for name, cut in cuts.items():
        rows += _interim_rows(made, training, cut, name=name) if cut else []
    return rows


def _interim_rows(made: Sheet, training: JobFigures, served: Sequence[Served], *, name: str) -> list[Row]:
    jobs = [each.interim for each in served]
    figures = {
        "B / blocks run": ([training.num_blocks / job.num_blocks for job in jobs], "x", ""),
        "training / claim to published": (
            [training.seconds / job.seconds for job in jobs], "x", f"; a training: {training.seconds:.1f} s"
        ),
        "exact job / claim to published": (
            [each.settle.seconds / each.interim.seconds for each in served], "x", "; of the same deletion"
        ),
        "claim to published": ([job.seconds for job in jobs], "s", ""),
        "of it not unlearning": ([_fixed(job) for job in jobs], "s", ""),
    }  # fmt: skip
    return [
        made.median(f"served: {metric}", values, unit=unit, baseline=f"interim, {name}{more}")
        for metric, (values, unit, more) in figures.items()
    ]


def _forget(home: Home, subject_id: str) -> Served:
    home.forget(subject_id)
    return Served(last_job(home.own, JobKind.INTERIM), last_job(home.own, JobKind.SETTLE))


def _fixed(job: JobFigures) -> float:
    return job.seconds - job.steps.get("unlearn", 0.0)


def _subjects(home: Home, subject_ids: Sequence[str]) -> list[str]:
    held = subjects_in_plan(home.own, MODEL, dict.fromkeys(subject_ids))
    return random.Random(SEED).sample(sorted(each.subject_id for each in held), NUM_SUBJECTS)
