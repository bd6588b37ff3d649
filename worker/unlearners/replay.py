"""Exact unlearning: train again without the person, from the newest clean state or from initialisation.

If the steps before the first touched block do not depend on the person, then prefix state + filtered tail
= training that never had the person, bit for bit. Resuming one block late breaks it; a checkpoint's key
digests every record it met, so a state that met a forgotten record cannot be found for the retained ones.
"""

import time
from contextlib import closing
from dataclasses import dataclass

from app.domain.status import Guarantee
from app.services.checkpoint import CheckpointView, find_checkpoints
from app.services.prepare import Scope
from worker.context import JobContext
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.training.checkpoints import checkpoint_keys
from worker.training.loop import run_positions
from worker.training.placement import BEFORE_FIRST
from worker.training.state import TrainingState, initial_state, restore
from worker.unlearners.base import Prediction, Unlearned
from worker.unlearners.recording import RunRecorder


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
class _Exact:
    """Both exact methods; they differ in which checkpoints they may resume from."""

    name: str
    may_share: bool
    guarantee: Guarantee = Guarantee.EXACT

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Return where each shard resumes and how many blocks follow."""
        plan = context.recipe.plan
        points = [
            self._resume_point(context, scope, shard=shard, keys=_keys(context, table, shard))
            for shard in context.shards
        ]
        return Prediction(
            resumes_after=[point.position for point in points],
            resumes_from=[point.blob for point in points],
            num_blocks=sum(plan.num_positions - 1 - point.position for point in points),
        )

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: list[int]
    ) -> Unlearned:
        """Run every shard to its end and store the final states."""
        loader = context.loader(table)
        parts = [
            self._run_shard(context, scope, table=table, loader=loader, shard=shard, watched=watched)
            for shard in context.shards
        ]
        return Unlearned(
            constituents=[part.constituents[0] for part in parts],
            resumed_after=[part.resumed_after[0] for part in parts],
            resumed_from=[part.resumed_from[0] for part in parts],
            num_blocks=sum(part.num_blocks for part in parts),
            num_records=sum(part.num_records for part in parts),
            loop_seconds=sum(part.loop_seconds for part in parts),
            checkpoint_seconds=sum(part.checkpoint_seconds for part in parts),
        )

    def _run_shard(
        self,
        context: JobContext,
        scope: Scope,
        *,
        table: RecordTable,
        loader: Loader,
        shard: int,
        watched: list[int],
    ) -> Unlearned:
        keys = _keys(context, table, shard)
        resume = self._resume_point(context, scope, shard=shard, keys=keys)
        state = load_state(context, resume.checkpoint, shard=shard)
        plan = context.recipe.plan
        positions = range(resume.position + 1, plan.num_positions)
        sizes = [loader.num_records(shard=shard, block=p % plan.blocks) * plan.epochs for p in positions]
        recorder = RunRecorder(
            context=context,
            shard=shard,
            settled=scope.covers,
            keys=keys,
            watched=frozenset(watched),
            total_records=sum(sizes),
            resumed_from=resume.blob,
        )
        started = time.perf_counter()
        with closing(recorder):
            recorder.before_first(resume.position + 1, state)
            run_positions(
                state,
                positions,
                recipe=context.recipe,
                loader=loader,
                shard=shard,
                device=context.device,
                after_block=lambda position, state: recorder.after_block(
                    position, state, num_records=sizes[position - positions.start]
                ),
            )
        final = recorder.final_digest if positions else resume.blob
        assert final is not None  # without a block to run, the end itself was found
        return Unlearned(
            constituents=[final],
            resumed_after=[resume.position],
            resumed_from=[resume.blob],
            num_blocks=recorder.num_blocks,
            num_records=recorder.num_records,
            loop_seconds=time.perf_counter() - started,
            checkpoint_seconds=recorder.checkpoint_seconds,
        )

    def _resume_point(self, context: JobContext, scope: Scope, *, shard: int, keys: list[str]) -> ResumePoint:
        """Return the furthest clean state made from exactly these inputs.

        A state behind the first touched block, left by a job that failed, would be right as well; but this
        job's witness starts at the touched block, so only the job's own states reach that far.
        """
        own = context.installation
        found = find_checkpoints(
            own.sessions, context.claim.model_id, keys=keys, covers=scope.covers, store=own.store
        )
        lawful = [
            view
            for view in found
            if view.shard == shard
            and (
                view.job_id == context.claim.job_id
                or (self.may_share and view.position < scope.first_touched.get(shard, view.position + 1))
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


def _keys(context: JobContext, table: RecordTable, shard: int) -> list[str]:
    return checkpoint_keys(context.identity, table, plan=context.recipe.plan, shard=shard)
