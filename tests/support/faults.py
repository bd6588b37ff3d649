"""Unlearning methods with one fault each, a store that loses power, nets that cannot be replayed."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from app.db.jobs import checkpoints_of
from app.db.session import reading
from app.domain.terms import CheckpointId, JobId
from app.services.checkpoint import CheckpointFacts, CheckpointView, register_checkpoint
from app.services.prepare import Scope
from models_store.blobs import BlobStore, Digest
from worker.context import JobContext
from worker.data.records import RecordTable
from worker.training.state import TrainingState, pack_state, restore, state_digest
from worker.unlearners import Prediction, Unlearned
from worker.unlearners.replay import Replay, ResumePoint
from worker.unlearners.watching import Watched


class PowerCut(Exception):
    """The machine stopped at this moment."""


class DyingStore(BlobStore):
    """Writes so many blobs, then stops the machine: after the bytes of the next one, or before."""

    def __init__(self, root: str, *, num_writes: int, after_bytes: bool) -> None:
        super().__init__(Path(root))
        self._num_left, self._after_bytes = num_writes, after_bytes

    def put(self, data: bytes) -> Digest:
        """Store the bytes, unless the power goes."""
        self._num_left -= 1
        if self._num_left >= 0:
            return super().put(data)
        if self._after_bytes:
            super().put(data)
        raise PowerCut


class ResumesLate(Replay):
    """Resumes from the state after the first touched block: the fault of one public re-implementation."""

    def resume_point(
        self, context: JobContext, scope: Scope, *, shard: int, keys: list[str], own: bool
    ) -> ResumePoint:
        return kept_state(context, position=scope.first_touched[shard])


class ResumesLateAndDeniesIt(ResumesLate):
    """The same, but what it predicts and reports is what honest replay would."""

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Predict honestly."""
        return Replay().predict(context, scope, table=table)

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Resume late and report the honest resume point."""
        done = super().unlearn(context, scope, table=table, watched=watched)
        honest = self.predict(context, scope, table=table)
        return replace(done, resumed_after=honest.resumes_after, resumed_from=honest.resumes_from)


class LosesOptimizerState(ResumesLateAndDeniesIt):
    """Resumes at the right place with the right weights and a new optimizer."""

    def resume_point(
        self, context: JobContext, scope: Scope, *, shard: int, keys: list[str], own: bool
    ) -> ResumePoint:
        honest = Replay().resume_point(context, scope, shard=shard, keys=keys, own=own)
        assert honest.checkpoint is not None
        state = restore(
            _bytes(context, honest.checkpoint), context.recipe, shard=shard, device=context.device
        )
        state.optimizer.state.clear()
        digest = context.installation.store.put(pack_state(state))
        return ResumePoint(position=honest.position, checkpoint=replace(honest.checkpoint, digest=digest))


class FeedsTheForgotten(Replay):
    """Replays from the right place over all records, the forgotten ones too."""

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Train on everybody."""
        honest = Replay().predict(context, scope, table=table)
        everybody = context.retained(covers=scope.settled)
        return _From(honest.resumes_after[0]).unlearn(context, scope, table=everybody, watched=watched)


class HandsOverTheParent(Replay):
    """Does nothing at all."""

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Name the parent's final state."""
        done = Replay().predict(context, scope, table=table)
        parent = kept_state(context, position=context.recipe.plan.num_positions - 1)
        return Unlearned(
            constituents=[self._blob(context, scope, parent)],
            resumed_after=done.resumes_after,
            resumed_from=done.resumes_from,
            num_blocks=0,
            num_records=0,
            loop_seconds=0.0,
            checkpoint_seconds=0.0,
        )

    def _blob(self, context: JobContext, scope: Scope, parent: ResumePoint) -> str:
        assert parent.blob is not None
        return parent.blob


class SignsForTheParent(HandsOverTheParent):
    """Does nothing, and registers the parent's final state as its own work."""

    def _blob(self, context: JobContext, scope: Scope, parent: ResumePoint) -> str:
        assert parent.checkpoint is not None
        data = _bytes(context, parent.checkpoint)
        state = restore(data, context.recipe, shard=0, device=context.device)
        return _save_final(context, scope, state, position=parent.position)


class _From(Replay):
    """Resumes from the kept state of one position, whatever the keys say."""

    def __init__(self, position: int) -> None:
        super().__init__()
        object.__setattr__(self, "_position", position)

    def resume_point(
        self, context: JobContext, scope: Scope, *, shard: int, keys: list[str], own: bool
    ) -> ResumePoint:
        return kept_state(context, position=self._position)


class EndsAsTheParent(Replay):
    """Replays every shard, then signs for the parent's final state in the last of those that were touched."""

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Replay, and exchange one constituent."""
        done, shard = super().unlearn(context, scope, table=table, watched=watched), max(scope.first_touched)
        parent = kept_state(context, position=context.recipe.plan.num_positions - 1, shard=shard)
        assert parent.checkpoint is not None
        state = restore(
            _bytes(context, parent.checkpoint), context.recipe, shard=shard, device=context.device
        )
        blob = _save_final(context, scope, state, position=parent.position, shard=shard)
        return replace(done, constituents=[*done.constituents[:shard], blob, *done.constituents[shard + 1 :]])


def kept_state(context: JobContext, *, position: int, shard: int = 0) -> ResumePoint:
    """Return the model's kept state after a position, clean or not."""
    with reading(context.installation.sessions) as session:
        rows = [r for r in checkpoints_of(session, context.claim.model_id) if r.shard == shard]
        row = next(r for r in rows if r.position == position and r.job_id != context.claim.job_id)
    view = CheckpointView(
        id=CheckpointId(row.id),
        job_id=JobId(row.job_id),
        role=row.role,
        key=row.key,
        shard=row.shard,
        position=row.position,
        settled=row.settled,
        digest=row.digest,
        state_digest=row.state_digest,
    )
    return ResumePoint(position=position, checkpoint=view)


def _save_final(
    context: JobContext, scope: Scope, state: TrainingState, *, position: int, shard: int = 0
) -> str:
    facts = CheckpointFacts(
        role="final",
        key="none",
        shard=shard,
        position=position,
        settled=scope.covers,
        state_digest=state_digest(state),
    )
    own = context.installation
    data = pack_state(state)
    register_checkpoint(own.sessions, context.claim, facts, data=data, store=own.store)
    return own.store.put(data)


def _bytes(context: JobContext, checkpoint: CheckpointView) -> bytes:
    return context.installation.store.get(checkpoint.digest)


class _Scaled(nn.Module):
    """A linear net whose inputs are scaled by something that no state dict holds."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def scale(self) -> Tensor | float:
        """What inputs are multiplied by."""
        return 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K)."""
        logits: Tensor = self.linear(inputs.flatten(1) * self.scale())
        return logits


class HiddenBuffer(_Scaled):
    """Keeps a running figure in a buffer that is not persistent."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def scale(self) -> Tensor | float:
        """Falls with every call."""
        self.seen += 1
        return 1 / self.seen


class CountingAttribute(_Scaled):
    """Counts its calls in a Python attribute."""

    num_calls = 0

    def scale(self) -> Tensor | float:
        """Falls with every call."""
        self.num_calls += 1
        return 1 / self.num_calls


_STREAM = torch.Generator().manual_seed(1)


class SharedInitStream(_Scaled):
    """Draws its initial weights from a stream that all nets of a process share."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes)
        nn.init.normal_(self.linear.weight, generator=_STREAM)


class OwnRandomStream(_Scaled):
    """Draws noise from a generator of its own."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes)
        self._generator = torch.Generator().manual_seed(1)

    def scale(self) -> Tensor | float:
        """Differs with every call."""
        return 1 + torch.rand((), generator=self._generator)
