"""Close a request: erase the record bytes, delete what is known of them, sign the receipts.

Record bytes belong to the dataset. They are zeroed when no model on it holds the record without a tombstone,
every target is published and purged, and no job still reads what it began with: one that meets half-zeroed
bytes gets neither "kept" nor "dropped". Where a model holds the record and was not asked to forget it, the
bytes remain and the receipt names it. A job that cannot close its requests yet leaves them at ``purging``;
whoever comes last, a job or the sweep, closes them under the request row's lock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.jobs import active_job, now, running_jobs
from app.db.models import alias_version, methods_that_treated, models_on
from app.db.records import delete_records, lock_dataset, rows_never_learned, tombstone_numbers
from app.db.requests import finished_through, lock_request, receipt_of, requests_to_close, targets_of
from app.db.session import Sessions, reading, writing
from app.db.tables import Dataset, Job, Model, Receipt, Request, Target
from app.domain.receipts import ModelFacts, RequestFacts, full_statement, product_statement
from app.domain.scheduling import visible_at
from app.domain.status import ENDED_TARGETS, JobKind, Outcome, RequestKind, RequestStatus, TargetStatus
from app.domain.terms import DatasetId, JsonObject
from app.keyring import Keyring
from app.services.events import append_event, chain_head
from app.services.move_target import move_target
from app.services.numbering import rows_of_request
from app.services.publish import version_findings
from app.services.queue_job import STEPS_AFTER_THE_WORK, policy_of
from app.services.seal import seal_late_targets
from app.signing import sign

_log = structlog.get_logger()

EraseRows = Callable[[DatasetId, Sequence[int]], None]
"""Zeroes these rows of a dataset's data file and syncs; zeroing twice is once."""


@dataclass(frozen=True)
class _Erasure:
    """What became of the records of one dataset."""

    dataset: Dataset
    erased: list[int]
    used_by: list[str]


def close_ready(sessions: Sessions, *, keyring: Keyring, erase: EraseRows) -> list[str]:
    """Close every request whose targets have all been published and purged; return their ids."""
    with reading(sessions) as session:
        ready = requests_to_close(session)
    closed = []
    for request_id in ready:
        try:
            if close(sessions, request_id, keyring=keyring, erase=erase):
                closed.append(request_id)
        except (OSError, ValueError) as error:
            # A data file that cannot be written keeps its own requests at ``purging``, and no others.
            _log.error("request_not_closed", request=request_id, error=str(error))
    return closed


def close(sessions: Sessions, request_id: str, *, keyring: Keyring, erase: EraseRows) -> bool:
    """Close one request if it is ready; closing twice does nothing."""
    with writing(sessions) as session:
        request = lock_request(session, request_id)
        targets = targets_of(session, request_id)
        if receipt_of(session, request_id) is not None or not _is_ready(request, targets):
            return False
        datasets = _datasets(session, request, targets)
        readers = [model for dataset in datasets for model in models_on(session, dataset.id)]
        if any(_is_being_read(session, request, model=model) for model in readers):
            return False
        erasures = [_planned_erasure(session, request, dataset=dataset) for dataset in datasets]
        # After the look at who uses the records: a model that comes later finds them gone.
        if seal_late_targets(session, request):
            return False
        for erasure in erasures:
            _erase(session, erasure, erase=erase)
        _complete_targets(session, targets, erasures)
        _complete(session, request, targets=targets, erasures=erasures, keyring=keyring)
        return True


def destroy_revealed_nonces(sessions: Sessions) -> int:
    """Destroy the nonces of requests that a product can see completed: only the callers keep them.

    Not at completion itself: a repeated POST would show by a missing nonce, and a second POST by a missing
    link to the first, that it is done.
    """
    with reading(sessions) as session:
        at = now(session)
        seen = Request.nonce.is_not(None), Request.completed_at <= at, Request.reveal_at <= at
        if session.scalar(select(Request.id).where(*seen).limit(1)) is None:
            return 0
    with writing(sessions) as session:
        destroyed = update(Request).where(*seen).values(nonce=None, match_mac=None)
        return len(session.execute(destroyed.returning(Request.id)).all())


def _is_ready(request: Request, targets: Sequence[tuple[Target, Model]]) -> bool:
    lawful = (RequestStatus.SCHEDULED, RequestStatus.RUNNING, RequestStatus.FAILED)
    return request.status in lawful and all(_is_done(target) for target, _ in targets)


def _is_done(target: Target) -> bool:
    """Whether nothing of the model remembers the subject: being published is not enough."""
    return target.status in ENDED_TARGETS or target.purged_at is not None


def _is_being_read(session: Session, request: Request, *, model: Model) -> bool:
    """Whether a job of the model may still read records that the request erases.

    A training or settle job reads what it retains. A settle job reads its forget set too, but until then its
    target is not done, unless an empirical method was accepted for it before. An interim job reads its forget
    set: what was not settled exactly before it.
    """
    rows = rows_of_request(session, request, dataset_id=model.dataset_id)
    numbers = tombstone_numbers(session, model.id, rows).values()
    for job in running_jobs(session, model.id):
        scope = job.outputs.get("prepare", {}).get("scope")
        # What an interim job has made saw them, until it is published and purged, or ends.
        is_past = job.kind != JobKind.INTERIM and job.step in STEPS_AFTER_THE_WORK
        if scope is None or is_past:
            continue  # what has not fixed its n yet will leave them out
        if any(_reads(job, scope, number) for number in numbers):
            return True
    return False


def _reads(job: Job, scope: JsonObject, number: int) -> bool:
    covers, settled = int(str(scope["covers"])), int(str(scope["settled"]))
    if job.kind == JobKind.INTERIM:
        return number > settled
    if scope.get("is_chained"):
        return number > covers  # its forget set is what its own targets wait for
    return number > covers or settled < number <= int(str(scope.get("base_covers", settled)))


def _datasets(
    session: Session, request: Request, targets: Sequence[tuple[Target, Model]]
) -> Sequence[Dataset]:
    """Return the datasets a request reaches: all of the tenant's, or those of the models it names."""
    query = select(Dataset).where(Dataset.tenant == request.tenant).order_by(Dataset.id)
    if request.is_narrowed_by_models:
        query = query.where(Dataset.id.in_([model.dataset_id for _, model in targets]))
    return session.scalars(query).all()


def _planned_erasure(session: Session, request: Request, *, dataset: Dataset) -> _Erasure:
    """Say which records of a dataset nobody uses any more, and who uses the others."""
    if not rows_of_request(session, request, dataset_id=dataset.id):
        return _Erasure(dataset=dataset, erased=[], used_by=[])
    # Then again: whoever held the lock may have written a newer content of one, or made a model.
    lock_dataset(session, dataset.id)
    rows = rows_of_request(session, request, dataset_id=dataset.id)
    users = {model.name: _rows_in_use(session, model, rows) for model in models_on(session, dataset.id)}
    in_use = set().union(*users.values()) if users else set()
    free = [row for row in rows if row not in in_use]
    return _Erasure(dataset=dataset, erased=free, used_by=[name for name, used in users.items() if used])


def _erase(session: Session, erasure: _Erasure, *, erase: EraseRows) -> None:
    if erasure.erased:
        erase(DatasetId(erasure.dataset.id), erasure.erased)
        delete_records(session, erasure.dataset.id, erasure.erased)


def _rows_in_use(session: Session, model: Model, rows: list[int]) -> set[int]:
    """Return the rows that a model still holds: without a tombstone, or not yet finished."""
    numbers = tombstone_numbers(session, model.id, rows)
    version = alias_version(session, model.id)
    if version is not None:
        finished = max(version.settled, finished_through(session, model.id))
    else:
        # A model without a version holds nothing but what a training that has fixed its n reads right now.
        job = active_job(session, model.id, kind=JobKind.TRAIN)
        prepared = {} if job is None else job.outputs.get("prepare", {})
        finished = int(prepared.get("covers", model.num_sealed))
    held = {row for row in rows if row not in numbers or numbers[row] > finished}
    # What no run may learn is nobody's, and goes with its record.
    return held - rows_never_learned(session, model.id) if held else held


def _complete_targets(
    session: Session, targets: Sequence[tuple[Target, Model]], erasures: list[_Erasure]
) -> None:
    by_dataset = {erasure.dataset.id: erasure for erasure in erasures}
    for target, model in targets:
        if target.status != TargetStatus.PURGING:
            continue
        if target.outcome == Outcome.ALREADY_COVERED:
            target.findings = _findings_of_current(session, model) | (target.findings or {})
        target.done_at = now(session)
        move_target(session, target, TargetStatus.COMPLETED, outcome=target.outcome)
        erasure = by_dataset.get(model.dataset_id)
        if erasure is not None:
            found = {"num_records_erased": len(erasure.erased), "records_used_by": erasure.used_by}
            target.findings = {**(target.findings or {}), **found}


def _findings_of_current(session: Session, model: Model) -> JsonObject:
    """Return what the current version says for a target that no version was made for."""
    version = alias_version(session, model.id)
    return {} if version is None else version_findings(session, version)


def _complete(
    session: Session,
    request: Request,
    *,
    targets: Sequence[tuple[Target, Model]],
    erasures: list[_Erasure],
    keyring: Keyring,
) -> None:
    completed_at = now(session)
    facts = RequestFacts(
        request_id=request.id,
        commitment=request.commitment.hex(),
        posted_at=request.posted_at,
        due_at=request.due_at,
        event_head=chain_head(session, request.id),
        kind=RequestKind(request.kind),
        label=_label_of(request),
    )
    product = product_statement(
        facts,
        models={
            model.name: _accepted_methods(session, model) for target, model in targets if not target.is_late
        },
        visible_at=visible_at(completed_at, request.reveal_at),
    )
    full = full_statement(
        facts,
        models=[_model_facts(target, model, at=completed_at) for target, model in targets],
        completed_at=completed_at,
    )
    full["datasets"] = [
        {"dataset": e.dataset.name, "num_records_erased": len(e.erased), "remains_used_by": list(e.used_by)}
        for e in erasures
    ]
    session.add(
        Receipt(
            request_id=request.id,
            product_jws=sign(product, keyring=keyring),
            full_jws=sign(full, keyring=keyring),
            signed_at=completed_at,
        )
    )
    request.status = RequestStatus.COMPLETED
    request.completed_at = completed_at
    # From now on the suppression is the only place that keeps the hash of the subject id.
    request.subject_refs, request.record_refs = None, None
    if request.kind == RequestKind.RECTIFICATION:
        request.asked = None
    append_event(session, request.id, "completed")


def _label_of(request: Request) -> int | None:
    is_class = request.kind == RequestKind.CLASS_DELETION
    return int((request.asked or {})["label"]) if is_class else None


def _accepted_methods(session: Session, model: Model) -> list[str]:
    """Return the empirical methods that may finish a deletion in this model, or ever have.

    Of the model, never of the subject: whoever was held and whoever was not get the same form. Ever, because
    of whom was treated nobody is known once the deletion is completed.
    """
    policy = policy_of(model)
    accepted = {policy.final_method} if policy.settles_empirically else set()
    return sorted(accepted | methods_that_treated(session, model.id))


def _model_facts(target: Target, model: Model, *, at: float) -> ModelFacts:
    findings = dict(target.findings or {})
    used_by = findings.pop("records_used_by", [])
    return ModelFacts(
        model=model.name,
        outcome=str(target.outcome),
        done_at=target.done_at or at,
        details=findings,
        remains=tuple(f"the record bytes, used by {name}" for name in used_by),
    )
