"""What a receipt states. Two forms: the product's, equal for held and unheld subjects, and the full one.

Promises: the product's form is built from nothing that depends on whether the subject was held.
The canonical bytes (RFC 8785) are made by ``models_store.manifest.canonical_json`` when it is signed.
"""

from dataclasses import dataclass, field

from app.domain.terms import JsonObject, JsonValue

RECEIPT_TYPE = "expunge/receipt@1"
NOT_REACHED: tuple[str, ...] = (
    "source files and databases outside Expunge",
    "copies of a version or of data that were downloaded earlier",
    "backups and snapshots of the disks, until their operator deletes them",
    "disk sectors that the file system has freed or remapped underneath an overwritten file",
    "write-ahead log, archives and freed pages of a database server: keyed hashes, until it recycles them",
    "the suppression entry (a keyed hash of the subject id), kept until its expiry date",
)


@dataclass(frozen=True)
class RequestFacts:
    """What every receipt says about the request itself. Times are UTC seconds."""

    request_id: str
    commitment: str
    posted_at: float
    due_at: float
    event_head: str


@dataclass(frozen=True)
class ModelFacts:
    """What the full receipt says about one model."""

    model: str
    outcome: str
    done_at: float
    details: JsonObject = field(default_factory=dict)
    remains: tuple[str, ...] = ()


def product_statement(request: RequestFacts, *, models: list[str], visible_at: float) -> JsonObject:
    """Return the receipt for product scopes: the same form, whoever the subject was."""
    claim = (
        "from visible_at on, no live artifact of this model was trained on records of this subject, "
        "except as listed under not_reached"
    )
    return {
        **_head(request, form="product"),
        "visible_at": visible_at,
        "models": [{"model": name, "statement": claim} for name in sorted(models)],
    }


def full_statement(request: RequestFacts, *, models: list[ModelFacts], completed_at: float) -> JsonObject:
    """Return the receipt for admin scopes: versions, methods, evidence, the purge list and what remains."""
    return {
        **_head(request, form="full"),
        "completed_at": completed_at,
        "models": [_model_part(facts) for facts in sorted(models, key=lambda facts: facts.model)],
    }


def _head(request: RequestFacts, *, form: str) -> JsonObject:
    not_reached: list[JsonValue] = list(NOT_REACHED)
    head: JsonObject = {"type": RECEIPT_TYPE, "form": form, "request": request.request_id}
    head |= {"commitment": request.commitment, "posted_at": request.posted_at, "due_at": request.due_at}
    if form == "full":
        # The chain's length and content differ between held and unheld subjects.
        head["event_head"] = request.event_head
    head["not_reached"] = not_reached
    return head


def _model_part(facts: ModelFacts) -> JsonObject:
    remains: list[JsonValue] = list(facts.remains)
    part: JsonObject = {"model": facts.model, "outcome": facts.outcome, "done_at": facts.done_at}
    return {**part, **facts.details, "remains": remains}
