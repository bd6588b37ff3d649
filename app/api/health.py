"""Routes for machines that watch the service, and the keys that verify its receipts. No API key needed."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.deps import ContextDep
from app.api.errors import documented_openly, unready_problem
from app.api.schemas import HealthOut
from app.services.installation import readiness
from app.signing import public_keys

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="isAlive")
async def get_livez() -> dict[str, str]:
    """Say that the process answers; looks at nothing."""
    # A coroutine: it answers too while every thread waits for the database.
    return {"status": "alive"}


@router.get("/readyz", operation_id="isReady", response_model=HealthOut, responses=documented_openly(503))
def get_readyz(context: ContextDep) -> HealthOut | Response:
    """Look at the database, its migrations and the keys; 503 unless all is well."""
    found = readiness(context.engine, context.sessions, context.keyring)
    return HealthOut.model_validate(found) if found.is_ready else unready_problem(found.missing)


@router.get("/.well-known/jwks.json", operation_id="getKeys")
def get_keys(context: ContextDep, response: Response) -> dict[str, Any]:
    """Return the public keys that verify receipts, as a JSON Web Key Set."""
    response.headers["Cache-Control"] = "public, max-age=300"
    return public_keys(context.keyring)
