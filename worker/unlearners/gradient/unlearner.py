"""A gradient method as an unlearner: from the last exact version's weights, shard by shard.

Always from there, never from what was treated before: what treatments leave behind would add up. Only a model
that was trained elsewhere, which has no exact version, goes on from its newest one. Only shards that somebody
is forgotten in are touched.

Promises: the seed is a function of the original weights, the method, its settings and whom it is for, so a
job that is killed and run again ends with the same bits. Never: a claim beyond ``empirical``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from app.db.models import exact_ancestor, version_with_manifest
from app.db.session import reading
from app.domain.errors import GateFailed
from app.domain.methods import Settings, stored_settings
from app.domain.status import Guarantee
from app.services.prepare import Scope
from app.services.references import put_blob
from models_store.blobs import Digest
from models_store.manifest import Manifest, digest_json
from models_store.tensors import tensor_digest, unpack
from worker.context import JobContext
from worker.data.records import RecordTable
from worker.training.state import initial_state, pack_state
from worker.unlearners.base import Prediction, Unlearned
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.loaded import Loaded, ShardRecords
from worker.unlearners.gradient.method import Method, MethodDoesNotFit, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side, Sides
from worker.unlearners.gradient.runner import MethodBrokeDown, run_course
from worker.unlearners.gradient.saving import CourseSaver
from worker.unlearners.gradient.sources import gradient_sources
from worker.unlearners.watching import Watched


@dataclass(frozen=True)
class Gradient:
    """One gradient method of the registry, as the pipeline runs it."""

    method: Method
    guarantee: Guarantee = Guarantee.EMPIRICAL

    @property
    def name(self) -> str:
        """The method's own name."""
        return self.method.name

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Return no resume points, and as many blocks as a training of the touched shards.

        A course that stops by itself cannot say when: this bounds the time that the job is given.
        """
        num = len(context.shards)
        num_touched = len(scope.first_touched)
        return Prediction(
            resumes_after=[-1] * num,
            resumes_from=[None] * num,
            num_blocks=num_touched * context.net_recipe.num_positions,
        )

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Treat every touched shard; the others keep the weights that they have.

        Raises:
            GateFailed: a shard's weights cannot be used; it is named.
        """
        started = time.perf_counter()
        originals, loaded = _originals(context, scope), Loaded(context, scope, retained=table)
        blobs: list[str] = []
        shown: list[dict[str, Any]] = []
        for shard in context.shards:
            state = initial_state(context.net_recipe, shard=shard, device=context.device)
            net = state.net
            net.load_state_dict(originals[shard])
            if shard in loaded.shards:
                net, figures = _Treated(self.method, context, scope, shard).run(net, loaded.of(shard))
                state.net.load_state_dict(net.state_dict())
                shown.append(figures)
            blobs.append(_put(context, pack_state(state)))
        num_records = sum(sum(figures["num_records"].values()) for figures in shown)
        return Unlearned(
            constituents=blobs,
            resumed_after=[-1] * len(blobs),
            resumed_from=[None] * len(blobs),
            num_blocks=_as_blocks(context, table, num_records=num_records),
            num_records=num_records,
            loop_seconds=time.perf_counter() - started,
            checkpoint_seconds=0.0,
            course=shown,
        )


@dataclass(frozen=True)
class _Treated:
    """One shard's treatment."""

    method: Method
    context: JobContext
    scope: Scope
    shard: int

    def run(self, net: nn.Module, records: ShardRecords) -> tuple[nn.Module, dict[str, Any]]:
        """Return the treated net and what the evidence shows of the way."""
        sides = records.sides
        given = {side: records for side, records in sides.items() if side in _sides_read(self.method)}
        if not len(sides[Side.RETAIN]):
            raise GateFailed(f"shard {self.shard}: nobody is left to keep the model by")
        stated = self.context.output_of("prepare")["settings"]
        assert isinstance(stated, dict)
        seed = self._seed(net, stated)
        settings = self._settings(stated)
        num_classes = self.context.model.layout.num_classes
        try:
            prepared = self.method.prepare(Task(net, given, num_classes, seed, records.corrected), settings)
            figures = self._work(prepared, given, seed=seed)
        except (MethodBrokeDown, MethodDoesNotFit) as refused:
            raise GateFailed(f"shard {self.shard}: {refused}") from refused
        return prepared.finish(prepared.net), {"shard": self.shard, "seed": seed, **figures}

    def _settings(self, stated: Mapping[str, Any]) -> Settings:
        try:
            return stored_settings(self.method.name, stated)
        except ValueError as error:
            raise GateFailed(f"{self.method.name}.{error}") from error

    def _work(self, prepared: Prepared, sides: Sides, *, seed: int) -> dict[str, Any]:
        if not isinstance(prepared.work, Course):
            return {**run_edit(prepared.net, prepared.work, sides).to_json(), "warnings": []}
        saver = CourseSaver(self.context, shard=self.shard, settled=self.scope.settled, seed=seed)
        state = saver.resumed(prepared.net, prepared.work)
        run_course(state, prepared.work, sides, seed=seed, after_cycle=saver.after_cycle)
        stopped = {"num_cycles": state.cycle, "is_stopped": state.is_stopped}
        return {**stopped, **state.diagnostics.to_json()}

    def _seed(self, net: nn.Module, stated: Mapping[str, Any]) -> int:
        parts = {
            "weights": tensor_digest(dict(net.state_dict())),
            "method": self.method.name,
            "settings": dict(stated),
            "scope": [self.scope.forgets_above, self.scope.covers, self.shard],
            "environment": self.context.environment.digest(),
            "sources": gradient_sources(),
        }
        return int(digest_json(parts)[:13], 16)  # 52 bits, which JSON holds exactly


def _put(context: JobContext, data: bytes) -> Digest:
    """Store bytes that the job needs. No checkpoint's row: nothing resumes from a treated state."""
    own = context.installation
    return put_blob(own.sessions, data, claim=context.claim, store=own.store)


def _sides_read(method: Method) -> set[Side]:
    return {Reads(read).side for read in method.reads}


def _originals(context: JobContext, scope: Scope) -> list[dict[str, Tensor]]:
    """Return the weights to start from, by shard: the last exact version's, or without one the base's."""
    own, model_id = context.installation, context.claim.model_id
    with reading(own.sessions) as session:
        if scope.is_chained:
            start = version_with_manifest(session, model_id, digest=scope.base)
        else:
            start = exact_ancestor(session, model_id)
        assert start is not None, "no version to start from"
        manifest_digest = Digest(start.manifest_digest)
    manifest = Manifest.from_bytes(own.store.get(manifest_digest))
    return [unpack(own.store.get(file.digest))[0] for file in manifest.constituents]


def _as_blocks(context: JobContext, table: RecordTable, *, num_records: int) -> int:
    """Return how many blocks of training meet as many records."""
    whole = len(table.training()) * context.net_recipe.num_visits
    return -(-num_records * context.num_blocks // whole) if whole else 0
