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
    """Return blocks and seconds as two ratios, with the fixed part beside them."""
    total = training.num_blocks
    interim, settle = [each.interim for each in served], [each.settle for each in served]
    whole, ratios = f"training: {training.seconds:.1f} s", [total / job.num_blocks for job in interim]
    against = [each.settle.seconds / each.interim.seconds for each in served]
    return [
        made.median("B / blocks run", ratios, unit="x", baseline="interim"),
        made.median(
            "training / claim to published", [training.seconds / job.seconds for job in interim], unit="x",
            baseline=f"interim; {whole}",
        ),
        made.median(
            "exact job / claim to published", against, unit="x", baseline="interim; the same deletion"
        ),
        made.median("claim to published", [j.seconds for j in interim], unit="s", baseline="interim"),
        made.median("of it not unlearning", [_fixed(j) for j in interim], unit="s", baseline="interim"),
        made.median("claim to completed", [j.seconds for j in settle], unit="s", baseline="exact"),
        made.one(
            "B / mean blocks run", total / statistics.fmean(j.num_blocks for j in interim), unit="x",
            baseline=f"interim, {len(served)} deletions",
        ),
    ]  # fmt: skip


def _forget(home: Home, subject_id: str) -> Served:
    home.forget(subject_id)
    return Served(last_job(home.own, JobKind.INTERIM), last_job(home.own, JobKind.SETTLE))


def _fixed(job: JobFigures) -> float:
    return job.seconds - job.steps.get("unlearn", 0.0)


def _subjects(home: Home, subject_ids: Sequence[str]) -> list[str]:
    held = subjects_in_plan(home.own, MODEL, dict.fromkeys(subject_ids))
    return random.Random(SEED).sample(sorted(each.subject_id for each in held), NUM_SUBJECTS)
