"""Checkpoint stitching (DeepObliviate, He et al. 2021, arXiv 2105.06209): fast, and empirical.

Retrain from before the first touched block until what the records still change has decayed, then add what
the last exact run did from there on. The forgotten are always the union of all that is not settled yet,
against that one run; nothing is ever stitched to something stitched.

Promises: a fit that does not hold never stops, and neither does a stitched net that is unusable: the
retraining then goes on to the end, where it is exact. Never: a bound on the distance to exact retraining.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from app.db.records import marks_of
from app.db.session import reading
from app.domain.policy import STITCH
from app.domain.status import Guarantee, JobKind
from app.services.prepare import Scope
from app.services.publish import require_needed
from app.services.references import put_blob
from worker.context import JobContext
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.training.loop import run_positions
from worker.training.state import TrainingState, initial_state, pack_state
from worker.unlearners.base import Prediction, Unlearned
from worker.unlearners.recording import RunRecorder, records_after, records_met
from worker.unlearners.references import StoredReferences
from worker.unlearners.replay import Replay, ResumePoint, keys_of, load_state
from worker.unlearners.stitching import (
    ReferenceMissing,
    Retraining,
    estimate_batch_norm,
    fault_of,
    stitch,
)
from worker.unlearners.watching import Watched

NORM_RECORDS = 1_024
TIMES_FEWEST = 3
_EXACT = Replay()


class _StopsHere(Exception):
    """What the records still change has decayed."""


@dataclass(frozen=True)
class _Job:
    """What the shards of one job share; ``base`` are the records of the last exact run."""

    context: JobContext
    scope: Scope
    table: RecordTable
    loader: Loader
    watched: Watched
    base: RecordTable

    def after(self, shard: int) -> dict[int, int]:
        """Return where the shards behind this one were predicted to go on."""
        predicted = Prediction.read(self.context.output_of("prepare").get("prediction"))
        assert predicted is not None
        return {each: predicted.resumes_after[each] for each in self.context.shards if each > shard}


@dataclass
class _Way:
    """One shard's way: ``stitched`` is the state made at ``stopped_after``; without one it ran to its end."""

    job: _Job
    shard: int
    resume: ResumePoint
    recorder: RunRecorder
    retraining: Retraining | None
    references: StoredReferences
    is_measuring: bool = True
    why: str = "no block was touched"
    stopped_after: int | None = None
    stitched: TrainingState | None = field(default=None, repr=False)

    def after_block(self, position: int, state: TrainingState) -> None:
        """Record the block, measure it, and stop when the stitch can be made."""
        job = self.job
        num_met = records_met(job.context, job.loader, shard=self.shard, position=position)
        self.recorder.after_block(position, state, num_records=num_met)
        if self.retraining is None or not self.is_measuring:
            return
        try:
            ruling = self.retraining.after_block(position, state.net)
            is_last = position == self.job.context.recipe.plan.num_positions - 1
            self.why = "no block is left to reuse" if ruling.stops and is_last else ruling.why
            if ruling.stops and not is_last:
                self._stitch(position, state)
        except ReferenceMissing as missing:
            # Purged while we ran, if an exact version has come out: then nobody waits for this one.
            own, scope = self.job.context, self.job.scope
            require_needed(own.installation.sessions, own.claim, settled=scope.settled)
            self.why, self.is_measuring = str(missing), False

    def _stitch(self, position: int, state: TrainingState) -> None:
        """Stitch a copy; an unusable one is dropped and the retraining goes on unmeasured."""
        last = self.job.context.recipe.plan.num_positions - 1
        made = self._copy(state.net)
        net = made.net
        stitch(net, here=self.references.after(position), end=self.references.after(last))
        estimate_batch_norm(net, _newest_inputs(self.job, self.shard))
        if fault := fault_of(net):
            self.why, self.is_measuring = f"the stitch cannot be used: {fault}", False
            return
        self.stopped_after, self.stitched = position, made
        raise _StopsHere

    def _copy(self, net: nn.Module) -> TrainingState:
        context = self.job.context
        copy = initial_state(context.recipe, shard=self.shard, device=context.device)
        copy.net.load_state_dict(net.state_dict())
        return copy

    @property
    def final(self) -> str:
        """The blob of the final state."""
        if self.stitched is None:
            blob = self.recorder.final_digest or self.resume.blob
            assert blob is not None
            return blob
        # A state without an optimizer's memory, and no checkpoint's row: nothing resumes from it.
        own, claim = self.job.context.installation, self.job.context.claim
        return put_blob(own.sessions, pack_state(self.stitched), claim=claim, store=own.store)

    def trace(self) -> dict[str, Any]:
        """Return what the evidence shows of this way."""
        measured = self.retraining
        decay = None if measured is None else measured.ruling.decay
        return {
            "shard": self.shard,
            "resumed_after": self.resume.position,
            "stopped_after": self.stopped_after,
            "why": self.why,
            "num_blocks": self.recorder.num_blocks,
            "touched": [] if measured is None else list(measured.touched),
            "residuals": [] if measured is None else list(map(_finite, measured.residuals)),
            "num_points": 0 if measured is None else len(measured.points),
            "decay": None if decay is None else decay.to_json(),
            "slope": None if measured is None else _finite(measured.ruling.slope),
            "rule": asdict(self.job.context.model.policy.stitch),
        }


def _finite(value: float | None) -> float | None:
    """Return a number, or None where there is none that JSON could hold."""
    return value if value is not None and math.isfinite(value) else None


class Stitch:
    """Retrain until the residual memory has decayed, and reuse the rest of the last exact run."""

    name = STITCH
    guarantee = Guarantee.EMPIRICAL

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Return where each shard resumes, and the most blocks that can follow: those of replay.

        What is said in advance bounds the time that the job is given.
        """
        return _EXACT.predict(context, scope, table=table)

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Retrain and stitch every touched shard; the others keep the states that they have."""
        started = time.perf_counter()
        base = context.retained(covers=scope.settled)
        job = _Job(context, scope, table, context.loader(table), watched, base)
        ways: list[_Way] = []
        for shard in context.shards:
            ways.append(_run_shard(job, shard, earlier_records=sum(w.recorder.num_records for w in ways)))
        is_stitched = any(way.stitched is not None for way in ways)
        # What came to the end without a stitch is what replay would have made, and is judged as that.
        is_exact = context.claim.kind is JobKind.SETTLE and not is_stitched
        return Unlearned(
            constituents=[way.final for way in ways],
            resumed_after=[way.resume.position for way in ways],
            resumed_from=[way.resume.blob for way in ways],
            num_blocks=sum(way.recorder.num_blocks for way in ways),
            num_records=sum(way.recorder.num_records for way in ways),
            loop_seconds=time.perf_counter() - started,
            checkpoint_seconds=sum(way.recorder.checkpoint_seconds for way in ways),
            method=_EXACT.name if is_exact else self.name,
            trace=[way.trace() for way in ways],
        )


def _run_shard(job: _Job, shard: int, *, earlier_records: int) -> _Way:
    """Retrain one shard until it can be stitched, else to its end."""
    context, plan = job.context, job.context.recipe.plan
    keys = keys_of(context, job.table, shard)
    touched = _touched(context, job.scope, shard=shard)
    resume, is_anew = _resume(job, shard=shard, keys=keys, touched=touched)
    state = load_state(context, resume.checkpoint, shard=shard)
    positions = range(resume.position + 1, plan.num_positions)
    way = _way(job, shard=shard, resume=resume, keys=keys, touched=touched, earlier_records=earlier_records)
    if touched and not is_anew:
        way.is_measuring, way.why = False, "interrupted far behind the last touched block"
    with closing(way.recorder), suppress(_StopsHere):
        way.recorder.before_first(resume.position + 1, state)
        if way.retraining is not None:
            way.retraining.before_first(state.net)
        run_positions(
            state,
            positions,
            recipe=context.recipe,
            loader=job.loader,
            shard=shard,
            device=context.device,
            after_block=way.after_block,
        )
    return way


def _resume(job: _Job, *, shard: int, keys: list[str], touched: Sequence[int]) -> tuple[ResumePoint, bool]:
    """Return where a shard goes on, and whether it is measured from its first touched block on.

    An attempt that was interrupted begins anew, because what it measured is lost; far behind the last
    touched block, where the fit was refused again and again, it goes on to its end as replay would.
    """
    own, clean = (
        _EXACT.resume_point(job.context, job.scope, shard=shard, keys=keys, own=own) for own in (True, False)
    )
    far = TIMES_FEWEST * job.context.model.policy.stitch.min_points
    is_far = bool(touched) and own.position > touched[-1] + far
    return (own, False) if is_far else (clean, True)


def _way(
    job: _Job,
    *,
    shard: int,
    resume: ResumePoint,
    keys: list[str],
    touched: Sequence[int],
    earlier_records: int,
) -> _Way:
    context = job.context
    base_keys = keys_of(context, job.base, shard)
    references = StoredReferences(context, shard=shard, keys=base_keys, settled=job.scope.settled)
    retraining = Retraining(references, context.model.policy.stitch, touched) if touched else None
    recorder = RunRecorder(
        context=context,
        shard=shard,
        settled=job.scope.covers,
        keys=keys,
        watched=frozenset(job.watched.get(shard, ())),
        total_records=earlier_records
        + records_after(context, job.loader, {**job.after(shard), shard: resume.position}),
        earlier_records=earlier_records,
        resumed_from=resume.blob,
    )
    return _Way(job, shard, resume, recorder, retraining, references)


def _touched(context: JobContext, scope: Scope, *, shard: int) -> list[int]:
    """Return the blocks of a shard, by position, that held what is not settled yet."""
    with reading(context.installation.sessions) as session:
        marks = marks_of(session, context.claim.model_id, through=scope.covers)
    return sorted(
        {
            m.position
            for m in marks
            if m.number > scope.settled and m.shard == shard and m.position is not None
        }
    )


def _newest_inputs(job: _Job, shard: int) -> Iterator[torch.Tensor]:
    """Yield retained inputs (N, *) block by block, from the last one back; one record has no variance."""
    num = 0
    for block in reversed(range(job.context.recipe.plan.blocks)):
        if num >= NORM_RECORDS:
            return
        if job.loader.num_records(shard=shard, block=block) < 2:
            continue
        inputs = job.loader.block(shard, block).inputs
        num += len(inputs)
        yield inputs
