"""A look inside an installation, for what the API rightly does not tell: figures of jobs, places in plans.

Never writes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.db.models import model_named
from app.db.session import reading
from app.db.tables import Job, Placement, Record
from app.domain.status import JobKind, JobStatus
from app.domain.terms import DEFAULT_TENANT
from app.settings import Settings
from worker.installation import Installation, open_installation


@dataclass(frozen=True)
class JobFigures:
    """What one finished job took, in seconds; ``steps`` are those of the pipeline, by name."""

    seconds: float
    steps: dict[str, float]
    num_blocks: int
    loop_seconds: float
    checkpoint_seconds: float
    witness_seconds: float

    @property
    def fixed_seconds(self) -> float:
        """All but the unlearn step and the witness."""
        return self.seconds - self.steps.get("unlearn", 0.0) - self.witness_seconds

    @property
    def between_steps_seconds(self) -> float:
        """Starting two processes and everything else that no step counts."""
        return self.seconds - sum(self.steps.values())


@dataclass(frozen=True)
class Held:
    """A subject that training meets: the block that its records lie in, and how many they are."""

    subject_id: str
    block: int
    num_records: int


def look_into(home: Path) -> Installation:
    """Open an installation."""
    return open_installation(Settings(home=home))


def last_job(own: Installation, kind: JobKind) -> JobFigures:
    """Return the figures of the newest job of a kind, from claim to end; it must have succeeded.

    A settlement ends some milliseconds after its request is completed.
    """
    with reading(own.sessions) as session:
        job = session.scalars(select(Job).where(Job.kind == kind).order_by(Job.created_at.desc())).first()
        assert job is not None
        assert job.status == JobStatus.SUCCEEDED, job.error
    return _figures(job)


def subjects_in_plan(own: Installation, model: str, subject_ids: Iterable[str]) -> list[Held]:
    """Return those of the subjects that the training of a model meets, in the order of their blocks."""
    refs = {own.keyring.subject_refs(name, subject_type="person")[0]: name for name in subject_ids}
    with reading(own.sessions) as session:
        row = model_named(session, model, tenant=DEFAULT_TENANT)
        query = (
            select(Record.subject_ref, Placement.block)
            .join(Placement, Placement.row == Record.row)
            .where(Placement.model_id == row.id, Record.dataset_id == row.dataset_id)
        )
        places = [(refs[ref], block) for ref, block in session.execute(query) if ref in refs]
    blocks: dict[str, list[int]] = {}
    for name, block in places:
        blocks.setdefault(name, []).append(block)
    held = [Held(subject_id=name, block=min(own), num_records=len(own)) for name, own in blocks.items()]
    return sorted(held, key=lambda each: (each.block, each.subject_id))


def _figures(job: Job) -> JobFigures:
    outputs: dict[str, dict[str, Any]] = job.outputs
    unlearned = outputs.get("unlearn", {})
    assert job.claimed_at is not None
    assert job.finished_at is not None
    return JobFigures(
        seconds=job.finished_at - job.claimed_at,
        steps={name: float(output["step_seconds"]) for name, output in outputs.items()},
        num_blocks=int(unlearned.get("num_blocks", 0)),
        loop_seconds=float(unlearned.get("loop_seconds", 0.0)),
        checkpoint_seconds=float(unlearned.get("checkpoint_seconds", 0.0)),
        witness_seconds=float(outputs.get("verify", {}).get("witness_seconds", 0.0)),
    )
