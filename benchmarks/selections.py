"""The pages of the list that are measured: every kind of filter, both views, at the start and deep in."""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from app.api.schemas import DeletionsQuery
from app.domain.terms import DEFAULT_TENANT
from app.keyring import Keyring
from app.services.pages import token_of
from benchmarks.million import EVERYBODY, HARDLY_ANY, OLDER_HALF

DAY_SECONDS = 86_400.0
DEEP_SECONDS = 300 * DAY_SECONDS


@dataclass(frozen=True)
class Selection:
    """One page: its name in the results, whose key asks for it, and the query."""

    name: str
    caller: str
    query: str


def selections(*, now: float, keyring: Keyring) -> list[Selection]:
    """Return every page; those deep in begin at a token as the service makes them."""
    filters = _filters(now)
    return [
        Selection(f"page of {name}", caller, _query(given, caller=caller, deep_at=deep_at, keyring=keyring))
        for name, given in filters.items()
        for caller in ("product", "admin")
        for deep_at in (None, now - DEEP_SECONDS)
    ]


def _filters(now: float) -> dict[str, dict[str, str]]:
    statuses = ("received", "scheduled", "completed", "failed", "held")
    models = (EVERYBODY, OLDER_HALF, HARDLY_ANY, "nobody")
    return {
        "all": {},
        **{f"status {status}": {"status": status} for status in statuses},
        **{f"model {model}": {"model": model} for model in models},
        "due before now": {"due_before": _iso(now)},
        "due before half a year ago": {"due_before": _iso(now - 180 * DAY_SECONDS)},
        "failed and due before now": {"status": "failed", "due_before": _iso(now)},
    }


def _query(given: dict[str, str], *, caller: str, deep_at: float | None, keyring: Keyring) -> str:
    asked = dict(given)
    if deep_at is not None:
        selection = DeletionsQuery.model_validate(given).filters.to_json()
        selection |= {"tenant": DEFAULT_TENANT, "admin": caller == "admin"}
        asked["page"] = token_of((deep_at, "del_"), selection=selection, keyring=keyring)
    return f"?{urlencode(asked)}" if asked else ""


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
