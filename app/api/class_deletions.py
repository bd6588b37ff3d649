"""The route of class deletions; they are followed, approved and certified where deletions are."""

from fastapi import APIRouter, Depends, Response

from app.api.deps import Administers, ContextDep, IdempotencyKeyDep, require_json
from app.api.door import acknowledged, class_deletion_of, idempotency_of
from app.api.errors import documented
from app.api.repeating import RepeatingRoute, TryDep
from app.api.schemas import AcknowledgementOut, ClassDeletionIn
from app.services.fitting import misfits_of_label
from app.services.submit import acknowledge

router = APIRouter(tags=["deletions"], route_class=RepeatingRoute)


@router.post(
    "/class-deletions", status_code=202, operation_id="createClassDeletion",
    dependencies=[Depends(require_json)], responses=documented(400, 409, 413, 415, 422),
)  # fmt: skip
def create_class_deletion(
    own: TryDep, body: ClassDeletionIn, response: Response, context: ContextDep, caller: Administers,
    key: IdempotencyKeyDep,
) -> AcknowledgementOut:  # fmt: skip
    """Ask that a model forgets a class: exactly, it is trained again from where the class was first met.

    That is nearly always the very beginning. Nobody is suppressed, and the records stay in the dataset.
    Follow it at `Location`.
    """
    misfits = misfits_of_label(context.sessions, body.label, model=body.model, tenant=caller.tenant)
    stored = acknowledge(
        context.sessions, class_deletion_of(body), tenant=caller.tenant, keyring=context.keyring,
        grace_seconds=context.settings.grace_seconds,
        idempotency=idempotency_of(key, body, keyring=context.keyring), own=own,
        misfits=misfits,
    )  # fmt: skip
    return acknowledged(stored, response=response)
