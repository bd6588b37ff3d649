"""The route of rectifications; they are followed, approved and certified where deletions are."""

from fastapi import APIRouter, Depends, Response

from app.api.deps import ContextDep, CorrectsRecords, IdempotencyKeyDep, require_json
from app.api.door import acknowledged, changes_of, idempotency_of, rectification_of
from app.api.errors import documented
from app.api.repeating import RepeatingRoute, TryDep
from app.api.schemas import AcknowledgementOut, RectificationIn
from app.services.fitting import fit_of_changes
from app.services.submit import acknowledge

router = APIRouter(tags=["deletions"], route_class=RepeatingRoute)


@router.post(
    "/rectifications", status_code=202, operation_id="createRectification",
    dependencies=[Depends(require_json)], responses=documented(400, 409, 413, 415, 422),
)  # fmt: skip
def create_rectification(
    own: TryDep, body: RectificationIn, response: Response, context: ContextDep, caller: CorrectsRecords,
    key: IdempotencyKeyDep,
) -> AcknowledgementOut:  # fmt: skip
    """Ask that a record's label or features are corrected, and that every model learns the true ones instead.

    It waits until an admin approves it. Follow it at `Location`.
    """
    changes = changes_of(body.changes)
    fit = fit_of_changes(context.sessions, changes, dataset=body.dataset, tenant=caller.tenant)
    stored = acknowledge(
        context.sessions, rectification_of(body, datasets=fit.datasets, keyring=context.keyring),
        tenant=caller.tenant, keyring=context.keyring, grace_seconds=context.settings.grace_seconds,
        idempotency=idempotency_of(key, body, keyring=context.keyring), own=own,
        misfits=fit.misfits,
    )  # fmt: skip
    return acknowledged(stored, response=response)
