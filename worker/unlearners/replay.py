"""Exact unlearning: train again without the person, from the newest clean state or from initialisation.

If the steps before the first touched block do not depend on the person, then prefix state + filtered tail
= training that never had the person, bit for bit. Resuming one block late breaks it; a checkpoint's key
digests every record it met, so a state that met a forgotten record cannot be found for the retained ones.
"""

import time
from contextlib import closing, suppress
from dataclasses import dataclass

from app.domain.status import Guarantee
from app.services.checkpoint import CheckpointView, find_checkpoints
from app.services.prepare import Scope
from worker.context import JobContext
from worker.data.records import RecordTable
from worker.training.checkpoints import checkpoint_keys
from worker.training.loop import run_positions
from worker.training.placement import BEFORE_FIRST
from worker.training.state import TrainingState, initial_state, restore
from worker.unlearners.base import Prediction, Unlearned
from worker.unlearners.joining import Run, ShardGoesBack
from worker.unlearners.recording import RunRecorder, records_met
from worker.unlearners.watching import Watched, watched_blocks


@dataclass(frozen=True)
class ResumePoint:
    """The state a shard continues from; ``checkpoint`` None is the initialisation."""

    position: int
    checkpoint: CheckpointView | None

    @property
    def blob(self) -> str | None:
        """The digest of the state's blob."""
        return None if self.checkpoint is None else self.checkpoint.digest


@dataclass(frozen=True)
class _Pass:
    """One way of one shard from a resume point to its end, or to where it had to go back."""

    resume: ResumePoint
    recorder: RunRecorder

    @property
    def final(self) -> str:
        """The blob of the final state; without a block to run, the end itself was found."""
        blob = self.recorder.final_digest or self.resume.blob
        assert blob is not None
        return blob


@dataclass(frozen=True)
class _Exact:
    """Both exact methods; they differ in which checkpoints they may resume from."""

    name: str
    may_share: bool
    guarantee: Guarantee = Guarantee.EXACT

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Return where each shard resumes and how many blocks follow."""
        points = [
            self.resume_point(context, scope, shard=shard, keys=keys_of(context, table, shard), own=False)
            for shard in context.shards
        ]
        return Prediction(
            resumes_after=[point.position for point in points],
            resumes_from=[point.blob for point in points],
            num_blocks=sum(context.recipe.plan.num_positions - 1 - point.position for point in points),
        )

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Run every shard to its end, one that must go back again, and store the final states."""
        run = Run(
            context=context,
            scope=scope,
            table=table,
            loader=context.loader(table),
            watched=watched,
            # Whoever joins in a shard that has not begun lies ahead: those with nothing to do begin last.
            waiting=sorted(context.shards, key=lambda shard: (shard not in scope.first_touched, shard)),
            predicted=Prediction.read(context.output_of("prepare").get("prediction")),
        )
        started, passes, last = time.perf_counter(), list[_Pass](), dict[int, _Pass]()
        if run.predicted is None:
            # Killed right after a deletion had joined, which may have moved what is touched first.
            run.watched = watched_blocks(context, scope)
            run.note(self.predict(context, scope, table=table))
        while run.waiting:
            shard = run.waiting.pop(0)
            last[shard] = self._run_shard(run, shard=shard)
            passes.append(last[shard])
            run.num_records += last[shard].recorder.num_records
        return Unlearned(
            constituents=[last[shard].final for shard in context.shards],
            resumed_after=[last[shard].resume.position for shard in context.shards],
            resumed_from=[last[shard].resume.blob for shard in context.shards],
            num_blocks=sum(each.recorder.num_blocks for each in passes),
            num_records=sum(each.recorder.num_records for each in passes),
            loop_seconds=time.perf_counter() - started,
            checkpoint_seconds=sum(each.recorder.checkpoint_seconds for each in passes),
        )

    def _run_shard(self, run: Run, *, shard: int) -> _Pass:
        """Run one shard to its end, or until it must go back; then it waits again."""
        context, plan = run.context, run.context.recipe.plan
        self._join(run)
        keys = keys_of(context, run.table, shard)
        resume = self.resume_point(context, run.scope, shard=shard, keys=keys, own=True)
        run.finished[shard] = resume.position
        recorder = _recorder(run, shard=shard, keys=keys, resume=resume)

        def after_block(position: int, state: TrainingState) -> None:
            num_met = records_met(context, run.loader, shard=shard, position=position)
            recorder.after_block(position, state, num_records=num_met)
            run.finished[shard] = position
            if position + 1 < plan.num_positions and run.looks_again and self._join(run):
                if shard in run.waiting:
                    raise ShardGoesBack
                recorder.rejoin(
                    keys=keys_of(context, run.table, shard),
                    settled=run.scope.covers,
                    watched=run.watched_in(shard),
                )

        with closing(recorder), suppress(ShardGoesBack):
            positions = range(resume.position + 1, plan.num_positions)
            if positions:  # a shard that nobody leaves is not even loaded
                state = load_state(context, resume.checkpoint, shard=shard)
                recorder.before_first(positions.start, state)
                run_positions(
                    state,
                    positions,
                    recipe=context.recipe,
                    loader=run.loader,
                    shard=shard,
                    device=context.device,
                    after_block=after_block,
                )
        return _Pass(resume=resume, recorder=recorder)

    def _join(self, run: Run) -> bool:
        if not run.join():
            return False
        run.note(self.predict(run.context, run.scope, table=run.table))
        return True

    def resume_point(
        self, context: JobContext, scope: Scope, *, shard: int, keys: list[str], own: bool
    ) -> ResumePoint:
        """Return the furthest clean state made from exactly these inputs.

        A state behind the first touched block, left by a job that failed, would be right as well; but this
        job's witness starts at the touched block, so only the job's ``own`` states reach that far.
        """
        installation = context.installation
        found = find_checkpoints(
            installation.sessions,
            context.claim.model_id,
            keys=keys,
            covers=scope.covers,
            store=installation.store,
        )
        lawful = [
            view
            for view in found
            if view.shard == shard
            and (
                own
                if view.job_id == context.claim.job_id
                else self.may_share and view.position < scope.first_touched.get(shard, view.position + 1)
            )
        ]
        best = max(lawful, key=lambda view: view.position, default=None)
        return ResumePoint(position=BEFORE_FIRST if best is None else best.position, checkpoint=best)


class Replay(_Exact):
    """Replay the tail from the newest clean checkpoint of the model."""

    def __init__(self) -> None:
        super().__init__(name="replay", may_share=True)


class Retrain(_Exact):
    """Train from initialisation; only this job's own checkpoints serve, after a crash."""

    def __init__(self) -> None:
        super().__init__(name="retrain", may_share=False)


def load_state(context: JobContext, checkpoint: CheckpointView | None, *, shard: int) -> TrainingState:
    """Return the state of a checkpoint, or the initialisation."""
    if checkpoint is None:
        return initial_state(context.recipe, shard=shard, device=context.device)
    data = context.installation.store.get(checkpoint.digest)
    return restore(data, context.recipe, shard=shard, device=context.device)


def _recorder(run: Run, *, shard: int, keys: list[str], resume: ResumePoint) -> RunRecorder:
    return RunRecorder(
        context=run.context,
        shard=shard,
        settled=run.scope.covers,
        keys=keys,
        watched=run.watched_in(shard),
        total_records=run.total_records(shard, after=resume.position),
        earlier_records=run.num_records,
        resumed_from=resume.blob,
    )


def keys_of(context: JobContext, table: RecordTable, shard: int) -> list[str]:
    """Return the keys of a shard's states after each position, for these retained records."""
    return checkpoint_keys(context.identity, table, plan=context.recipe.plan, shard=shard)
