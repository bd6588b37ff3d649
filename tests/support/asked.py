"""Class deletions and rectifications of a lab, as the API would submit them."""

import secrets

from app.domain.access import Caller, Scope
from app.domain.changes import Changes
from app.domain.status import RequestKind
from app.domain.terms import DEFAULT_TENANT, KeyId, Submission
from app.keyring import commitment
from app.services.approve import approve
from app.services.fitting import fit_of_changes
from app.services.seal import seal
from app.services.submit import submit
from tests.support.trained import Lab, few_digits

ADMIN = Caller(key_id=KeyId("key"), tenant=DEFAULT_TENANT, scopes=frozenset({Scope.ADMIN}))


def post_class_deletion(lab: Lab, label: int) -> str:
    """Ask the model of a lab to forget a class."""
    nonce = secrets.token_bytes(32)
    submission = Submission(
        subject_refs=(), subject_type="class", nonce=nonce,
        commitment=commitment(nonce, f"{lab.model.name}/{label}", subject_type="class"),
        models=(lab.model.name,), kind=RequestKind.CLASS_DELETION, asked={"label": label},
    )  # fmt: skip
    return submit(lab.own.sessions, submission, tenant=DEFAULT_TENANT, keyring=lab.own.keyring)


def post_rectification(
    lab: Lab, subject: str, changes: Changes, *, record_id: str | None = None, dataset: str | None = None
) -> str:
    """Ask that a record of a subject, its first one unless another is named, is corrected."""
    keyring, nonce = lab.own.keyring, secrets.token_bytes(32)
    fit = fit_of_changes(lab.own.sessions, changes, dataset=dataset, tenant=DEFAULT_TENANT)
    own = record_id or few_digits().record_ids[few_digits().subject_ids.index(subject)]
    submission = Submission(
        subject_refs=keyring.subject_refs(subject, subject_type="person"), subject_type="person",
        commitment=commitment(nonce, subject, subject_type="person"), nonce=nonce,
        record_refs={each: keyring.record_refs(own, dataset=name) for each, name in fit.datasets.items()},
        kind=RequestKind.RECTIFICATION, asked=changes.to_json(),
    )  # fmt: skip
    return submit(lab.own.sessions, submission, tenant=DEFAULT_TENANT, keyring=keyring)


def sealed(lab: Lab, request_id: str) -> str:
    """Approve a request if it is held, seal it with the data files at hand, and return its id."""
    if lab.world.request(request_id).status == "held":
        approve(lab.own.sessions, request_id, caller=ADMIN)
    seal(lab.own.sessions, request_id, contents=lab.own.contents)
    return request_id


def row_of(subject: str) -> int:
    """Return the row of a subject's first record, as it was imported."""
    return few_digits().subject_ids.index(subject)
