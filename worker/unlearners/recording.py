"""Record a run while it goes: checkpoints, references and witness states where they are wanted, progress.

Promises: at most one rolling checkpoint a shard besides the one it resumed from, at most every 30 s; every
write checks the fence, so a worker that lost its lease stops at the next block.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from app.services.checkpoint import REFERENCE, CheckpointFacts, register_checkpoint
from app.services.claim import report_progress
from models_store.blobs import Digest, digest_of
from worker.context import JobContext
from worker.data.loader import Loader
from worker.training.placement import kept_positions
from worker.training.state import TrainingState, pack_state, state_digest
from worker.unlearners.references import ReferencePack, reference_key
from worker.unlearners.stitching import parameters_of

ROLLING_SECONDS = 30.0
PROGRESS_SECONDS = 0.5
WRITES_AHEAD = 4
_LASTING = frozenset({"policy", "final"})


def records_met(context: JobContext, loader: Loader, *, shard: int, position: int) -> int:
    """Return how many records a block meets in all its epochs."""
    plan = context.recipe.plan
    return loader.num_records(shard=shard, block=position % plan.blocks) * plan.epochs


def records_after(context: JobContext, loader: Loader, positions: Mapping[int, int]) -> int:
    """Return how many records shards meet after these positions, to their ends."""
    return sum(
        records_met(context, loader, shard=shard, position=each)
        for shard, position in positions.items()
        for each in range(position + 1, context.recipe.plan.num_positions)
    )


@dataclass
class RunRecorder:
    """Called after each block of one shard, and closed at its end.

    ``keys`` name the states; ``watched`` are the positions that concern the witness. ``total_records`` and
    ``earlier_records`` are those of the whole job and of the shards before this one: progress is the job's.
    """

    context: JobContext
    shard: int
    settled: int
    keys: list[str]
    watched: frozenset[int]
    total_records: int
    earlier_records: int = 0
    resumed_from: str | None = None
    num_records: int = 0
    num_blocks: int = 0
    checkpoint_seconds: float = 0.0
    final_digest: str = ""
    _kept: frozenset[int] = field(init=False)
    _last_saved: float = field(init=False)
    _last_reported: float = field(init=False, default=0.0)
    _references: ReferencePack = field(init=False, default_factory=ReferencePack)
    # Syncing a file takes as long as half a block: it happens beside the training.
    _writer: ThreadPoolExecutor = field(init=False, default_factory=lambda: ThreadPoolExecutor(1))
    _writes: list[Future[Digest]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        plan, policy = self.context.recipe.plan, self.context.model.policy
        self._kept = frozenset(kept_positions(policy, plan=plan))
        self._last_saved = time.monotonic()

    def before_first(self, position: int, state: TrainingState) -> None:
        """Keep the state before ``position`` when the witness watches it; for the first block of a run."""
        if position in self.watched:
            self._timed_save(position - 1, state, role="witness")

    def after_block(self, position: int, state: TrainingState, *, num_records: int) -> None:
        """Note that a block is done; its records count once for each epoch.

        Raises:
            HandedOver: the job should stop; its newest state is kept, durable when this is closed.
        """
        self.num_blocks += 1
        self.num_records += num_records
        is_asked = self.context.should_stop()
        roles = self._roles(position) or (["rolling"] if is_asked else [])
        self._keep_reference(position, state, roles=roles)
        for role in roles:
            self._timed_save(position, state, role=role)
        if is_asked:
            self.context.hand_over_if_asked()
        if time.monotonic() - self._last_reported >= PROGRESS_SECONDS:
            self._report(position)

    def rejoin(self, *, keys: list[str], settled: int, watched: frozenset[int]) -> None:
        """Go on with other records ahead: what was met so far is the same, so are the keys up to here."""
        self.keys, self.settled, self.watched = keys, settled, watched

    def close(self) -> None:
        """Wait until every state is durable.

        Raises:
            StoreError: one could not be written.
        """
        started = time.perf_counter()
        self._writer.shutdown()
        self._wait_for(0)
        self.checkpoint_seconds += time.perf_counter() - started

    def _roles(self, position: int) -> list[str]:
        last = self.context.recipe.plan.num_positions - 1
        roles = []
        if position in self.watched or position + 1 in self.watched:
            roles.append("witness")
        if position == last:
            roles.append("final")
        elif position in self._kept:
            roles.append("policy")
        elif time.monotonic() - self._last_saved >= ROLLING_SECONDS:
            roles.append("rolling")
        return roles

    def _keep_reference(self, position: int, state: TrainingState, *, roles: list[str]) -> None:
        """Keep the weights for stitching, where the policy wants it and no full checkpoint stays here."""
        if not self.context.model.policy.references:
            return
        is_full = not _LASTING.isdisjoint(roles)
        if not is_full:
            self._references.add(position, parameters_of(state.net))
        # Before any state that a run may resume from: it must not leave a gap behind.
        if self._references.weights and (self._references.is_full or roles):
            started = time.perf_counter()
            last, data = self._references.taken()
            key = reference_key(self.keys[last])
            self._save(last, data, role=REFERENCE, key=key, state_digest=digest_of(data))
            self.checkpoint_seconds += time.perf_counter() - started

    def _timed_save(self, position: int, state: TrainingState, *, role: str) -> None:
        started = time.perf_counter()
        key = self.keys[position] if position >= 0 else "initialisation"
        self._save(position, pack_state(state), role=role, key=key, state_digest=state_digest(state))
        self._last_saved = time.monotonic()
        self.checkpoint_seconds += time.perf_counter() - started

    def _save(self, position: int, data: bytes, *, role: str, key: str, state_digest: str) -> None:
        facts = CheckpointFacts(
            role=role,
            key=key,
            shard=self.shard,
            position=position,
            settled=self.settled,
            state_digest=state_digest,
        )
        own = self.context.installation
        if role == "rolling":
            # It replaces the one before it, whose bytes must not arrive after they were unlinked.
            self._wait_for(0)
        digest = register_checkpoint(
            own.sessions,
            self.context.claim,
            facts,
            data=data,
            store=own.store,
            resumed_from=self.resumed_from,
        )
        self._wait_for(WRITES_AHEAD - 1)
        self._writes.append(self._writer.submit(own.store.put, data))
        if role == "final":
            self.final_digest = digest

    def _wait_for(self, num_left: int) -> None:
        """Wait until at most so many states are on their way to the disk."""
        while len(self._writes) > num_left:
            self._writes.pop(0).result()

    def _report(self, position: int) -> None:
        self._last_reported = time.monotonic()
        progress = {
            "shard": self.shard,
            "position": position,
            "num_positions": self.context.recipe.plan.num_positions,
            "num_records": self.earlier_records + self.num_records,
            "total_records": self.total_records,
        }
        report_progress(self.context.installation.sessions, self.context.claim, dict(progress))
