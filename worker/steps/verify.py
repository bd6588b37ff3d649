"""verify, in a fresh process: the gates of a version, by its guarantee, and the figures that only inform.

An exact version must show lineage and witness, and utility informs. An empirical one was built on a version
that saw the records and does not claim otherwise: utility gates it. Both must be as served.
"""

import time
from functools import partial

import numpy as np
from torch import nn

from app.db.jobs import registration_of
from app.db.models import alias_version, exact_ancestor, version_with_manifest, versions_of
from app.db.requests import labels_deleted
from app.db.session import reading
from app.db.tables import Version
from app.domain.status import Guarantee, JobKind, VersionStatus
from app.domain.terms import JsonObject
from app.services.prepare import Scope
from app.services.references import put_blob
from models_store.blobs import Digest
from models_store.ensemble import Ensemble
from models_store.manifest import Manifest, canonical_json
from models_store.tensors import pack, unpack
from worker.context import JobContext
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.evaluation.gates import Check, evidence_of, require_gates, warnings_of
from worker.evaluation.lineage import lineage_check
from worker.evaluation.person import person_check
from worker.evaluation.served import served_check
from worker.evaluation.traced import chain_check, course_check, error_check, trace_check
from worker.evaluation.utility import remainder_check, sample_of, utility_check
from worker.evaluation.witness import planned_work, recompute
from worker.steps.scope import guarantee_of, prediction_of, scope_of, unlearned_by
from worker.training.checkpoints import records_digest
from worker.training.factory import build_net
from worker.training.state import restore, weights, weights_digest
from worker.unlearners import Unlearned

PROBE_RECORDS = 256


def verify(context: JobContext) -> JsonObject:
    """Return the weights digest, the files as served, and the evidence's digest; stored, not yet visible.

    Raises:
        GateFailed: a gate does not hold.
    """
    scope, unlearned = scope_of(context), unlearned_by(context)
    nets = [_trained(context, blob, shard=shard) for shard, blob in enumerate(unlearned.constituents)]
    digest = weights_digest([weights(net) for net in nets])
    retained = context.retained(covers=scope.covers)
    forgotten = context.forgotten(above=scope.forgets_above, covers=scope.covers)
    poisoned = context.loader(retained, poisoned=forgotten, reads_all=False)
    files = [_store_weights(context, net) for net in nets]
    witness, witness_seconds = _timed_witness(context, scope, loader=poisoned, files=files)
    checks = [
        *_lineage(context, scope, unlearned),
        *witness,
        _served(context, nets, files=files, loader=poisoned, retained=retained),
        *_trace(unlearned),
        *_course(unlearned),
        *_chain(context, scope),
        *_interim_error(context, scope, nets),
        *_context_checks(context, nets, loader=poisoned, retained=retained),
    ]
    require_gates(checks)
    refused = context.output_of("refused").get("attempts", [])
    assert isinstance(refused, list)
    evidence = _store(context, canonical_json(evidence_of(checks, refused=refused)))
    return {
        "weights_digest": digest,
        "files": list(files),
        "evidence": evidence,
        "retained_digest": records_digest(retained),
        "warnings": list(warnings_of(checks)),
        "witness_seconds": round(witness_seconds, 6),
    }


def _lineage(context: JobContext, scope: Scope, unlearned: Unlearned) -> list[Check]:
    """Judge what an exact version or a stitch was made from; the stitched state is nobody's checkpoint."""
    if guarantee_of(context) is not Guarantee.EXACT and unlearned.trace is None:
        return []
    ends = zip(unlearned.constituents, unlearned.trace or [{}] * len(unlearned.constituents), strict=True)
    check = lineage_check(
        context,
        scope,
        predicted_from=prediction_of(context).resumes_from,
        resumed_from=unlearned.resumed_from,
        constituents=[None if way.get("stopped_after") is not None else blob for blob, way in ends],
    )
    return [check]


def _trace(unlearned: Unlearned) -> list[Check]:
    return [] if unlearned.trace is None else [trace_check(unlearned.trace)]


def _course(unlearned: Unlearned) -> list[Check]:
    return [] if unlearned.course is None else [course_check(unlearned.course)]


def _chain(context: JobContext, scope: Scope) -> list[Check]:
    """Say on how many treatments this one was put, where there is no exact version to begin from."""
    if not scope.is_chained:
        return []
    with reading(context.installation.sessions) as session:
        versions = versions_of(session, context.claim.model_id)
    num_before = sum(version.job_id != context.claim.job_id for version in versions) - 1
    return [chain_check(num_before=num_before, base_covers=scope.base_covers)]


def _interim_error(context: JobContext, scope: Scope, nets: list[nn.Module]) -> list[Check]:
    """Compare what an interim job published for the same deletions, now that the exact weights are there."""
    if context.claim.kind is not JobKind.SETTLE or guarantee_of(context) is not Guarantee.EXACT:
        return []
    with reading(context.installation.sessions) as session:
        current = alias_version(session, context.claim.model_id)
    if current is None or current.guarantee != Guarantee.EMPIRICAL or current.covers != scope.covers:
        return []
    original = _exact_before(context, scope)
    if original is None:
        return []
    interim, before = (
        [unpack(context.installation.store.get(digest))[0] for digest in _files_of(context, version)]
        for version in (current, original)
    )
    return [error_check(nets, interim=interim, original=before, version=current.number)]


def _trained(context: JobContext, blob: str, *, shard: int) -> nn.Module:
    data = context.installation.store.get(blob)
    return restore(data, context.net_recipe, shard=shard, device=context.device).net


def _store_weights(context: JobContext, net: nn.Module) -> Digest:
    return _store(context, pack(weights(net), note={"format": "expunge/weights@1"}))


def _store(context: JobContext, data: bytes) -> Digest:
    own = context.installation
    return put_blob(own.sessions, data, claim=context.claim, store=own.store)


def _timed_witness(
    context: JobContext, scope: Scope, *, loader: Loader, files: list[Digest]
) -> tuple[list[Check], float]:
    started = time.perf_counter()
    checks = _witness(context, scope, loader=loader, files=files)
    return checks, time.perf_counter() - started


def _witness(context: JobContext, scope: Scope, *, loader: Loader, files: list[Digest]) -> list[Check]:
    is_exact = guarantee_of(context) is Guarantee.EXACT
    if context.claim.kind is not JobKind.SETTLE or not is_exact or not scope.first_touched:
        return []
    # Equal weights give equal files.
    before = _files_of(context, _exact_before(context, scope))
    unmoved = {shard for shard, (new, old) in enumerate(zip(files, before, strict=False)) if new == old}
    prediction = prediction_of(context)
    work = planned_work(
        context,
        scope,
        resumes_after=prediction.resumes_after,
        resumes_from=prediction.resumes_from,
        unmoved=unmoved,
    )
    return [recompute(context, scope, loader=loader, work=work)]


def _served(
    context: JobContext, nets: list[nn.Module], *, files: list[Digest], loader: Loader, retained: RecordTable
) -> Check:
    fresh = [build_net(context.net_recipe, shard=shard, device=context.device) for shard in context.shards]
    probes = retained.held_out() if retained.is_held_out_N.any() else retained.training()
    probe = sample_of(loader, probes, num=PROBE_RECORDS)
    return served_check(nets, fresh, files=files, store=context.installation.store, probe=probe)


def _context_checks(
    context: JobContext,
    nets: list[nn.Module],
    *,
    loader: Loader,
    retained: RecordTable,
) -> list[Check]:
    new, is_empirical = _ensemble(context, nets), guarantee_of(context) is Guarantee.EMPIRICAL
    parent, scope = _parent(context), scope_of(context)
    forgotten = context.forgotten(above=scope.forgets_above, covers=scope.covers, is_learned=True)
    held_out = sample_of(loader, retained.held_out())
    utility = utility_check(
        new,
        parent,
        held_out=held_out,
        retained=sample_of(loader, retained.training()),
        max_drop=context.model.policy.max_drop,
        is_gate=is_empirical,
        at_first=_accuracy_at_first(context),
    )
    shard_N = retained.training().shard_N
    remainder = remainder_check(np.bincount(shard_N, minlength=len(context.shards)).tolist())
    if parent is None or not len(forgotten):
        return [utility, remainder]  # nobody was unlearned: a first training leaves out whom it must not meet
    # The one place that asks for forget-set bytes: to look at the person, never to train.
    person = sample_of(context.loader(forgotten), forgotten)
    with reading(context.installation.sessions) as session:
        deleted, above = partial(labels_deleted, session, context.claim.model_id), scope.forgets_above
        classes, earlier = deleted(above=above, covers=scope.covers), deleted(covers=above)
    about = person_check(
        new, parent, forgotten=person, unseen=held_out, warns=is_empirical, classes=classes,
        earlier_classes=earlier,
    )  # fmt: skip
    return [utility, remainder, about]


def _base(context: JobContext) -> Version | None:
    """Return the version that this one follows."""
    with reading(context.installation.sessions) as session:
        return version_with_manifest(session, context.claim.model_id, digest=scope_of(context).base)


def _compared_version(context: JobContext) -> Version | None:
    """Return the version that accuracy is compared with.

    For an empirical one the exact version behind it, while its bytes are there: along a row of interim
    versions each might fall a little below the one before.
    """
    base = _base(context)
    if base is None or guarantee_of(context) is Guarantee.EXACT:
        return base
    return _exact_before(context, scope_of(context)) or base


def _accuracy_at_first(context: JobContext) -> JsonObject | None:
    """Return how well a model did when it was registered: along a chain each version might fall a little."""
    if context.model.row.has_plan:
        return None
    with reading(context.installation.sessions) as session:
        found = registration_of(session, context.claim.model_id).outputs["register"]["accuracy"]
    assert isinstance(found, dict)
    return found


def _exact_before(context: JobContext, scope: Scope) -> Version | None:
    """Return the exact version that this job's base comes from, while its bytes are there."""
    with reading(context.installation.sessions) as session:
        exact = exact_ancestor(session, context.claim.model_id)
    if exact is None or exact.settled != scope.settled or exact.status == VersionStatus.PURGED:
        return None
    return exact


def _parent(context: JobContext) -> Ensemble | None:
    """Return the version that accuracy is compared with, as it is served."""
    nets = []
    for shard, digest in enumerate(_files_of(context, _compared_version(context))):
        net = build_net(context.net_recipe, shard=shard, device=context.device)
        tensors, _ = unpack(context.installation.store.get(digest))
        net.load_state_dict(tensors)
        nets.append(net)
    return _ensemble(context, nets) if nets else None


def _ensemble(context: JobContext, nets: list[nn.Module]) -> Ensemble:
    return Ensemble(nets, combine=context.net_recipe.model.combine)


def _files_of(context: JobContext, version: Version | None) -> list[Digest]:
    """Return the blobs of a version's constituents in shard order; none without a version."""
    if version is None:
        return []
    manifest = Manifest.from_bytes(context.installation.store.get(version.manifest_digest))
    return [file.digest for file in manifest.constituents]
