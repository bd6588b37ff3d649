"""What a receipt states. Two forms: the product's, equal for held and unheld subjects, and the full one.

Promises: the product's form is built from nothing that depends on whether the subject was held.
The canonical bytes (RFC 8785) are made by ``models_store.manifest.canonical_json`` when it is signed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.status import Guarantee, Outcome, RequestKind
from app.domain.terms import JsonObject, JsonValue

RECEIPT_TYPE = "expunge/receipt@1"
TRAINED_WITHOUT = (
    "from visible_at on, no live artifact of this model was trained on {what}, "
    "except as listed under not_reached"
)
TREATED = (
    "from visible_at on, every live artifact of this model that was trained on {what}, if there is one, was "
    "treated by {methods} for {them}, except as listed under not_reached; that is an "
    "empirical method: nothing shows that {their} influence is gone"
)
# What the full receipt says of one model, by the outcome there.
OUTCOMES: Mapping[Outcome, str] = {
    Outcome.UNLEARNED: "unlearned: this version was trained without {what}",
    Outcome.TREATED: "treated by {method}: an empirical method was applied to a version that was trained on "
    "{what}; nothing shows that {their} influence is gone",
    Outcome.ALREADY_COVERED: "already covered: {what} had been left out of training, or treated for another "
    "request, before",
    Outcome.NO_DATA: "no data: {none}",
}
# By kind: what is forgotten, in the words of every statement, and what is said where there is none of it.
_WORDS: Mapping[RequestKind, Mapping[str, str]] = {
    RequestKind.DELETION: {
        "what": "records of this subject", "them": "them", "their": "their",
        "none": "no records of this subject were found",
    },
    RequestKind.CLASS_DELETION: {
        "what": "records of this class", "them": "them", "their": "their",
        "none": "no records of this class were found",
    },
    RequestKind.RECTIFICATION: {
        "what": "the former content of this record", "them": "it", "their": "its",
        "none": "no such record of this subject was found",
    },
}  # fmt: skip
_NOT_REACHED: tuple[str, ...] = (
    "source files and databases outside Expunge",
    "copies of a version or of data that were downloaded earlier",
    "backups and snapshots of the disks, until their operator deletes them",
    "disk sectors that the file system has freed or remapped underneath an overwritten file",
    "write-ahead log, archives and freed pages of a database server: keyed hashes, until it recycles them",
)
_ALSO_NOT_REACHED: Mapping[RequestKind, str] = {
    RequestKind.DELETION: "the suppression entry (a keyed hash of the subject id), kept until its expiry "
    "date",
    RequestKind.CLASS_DELETION: "the records of the class, which stay in the dataset for other models",
    RequestKind.RECTIFICATION: "write-ahead log, archives and freed pages of a database server: the changes, "
    "until it recycles them",
}


@dataclass(frozen=True)
class RequestFacts:
    """What every receipt says about the request itself. Times are UTC seconds.

    ``label`` is the class of a class deletion.
    """

    request_id: str
    commitment: str
    posted_at: float
    due_at: float
    event_head: str
    kind: RequestKind = RequestKind.DELETION
    label: int | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What the full receipt says about one model."""

    model: str
    outcome: str
    done_at: float
    details: JsonObject = field(default_factory=dict)
    remains: tuple[str, ...] = ()


def product_statement(
    request: RequestFacts, *, models: Mapping[str, Sequence[str]], visible_at: float
) -> JsonObject:
    """Return the receipt for product scopes: the same form, whoever the subject was.

    ``models`` gives, by name, the empirical methods that may have finished a deletion there; mostly none.
    """
    return {
        **_head(request, form="product"),
        "visible_at": visible_at,
        "models": [
            _claim(name, methods=methods, kind=request.kind) for name, methods in sorted(models.items())
        ],
    }


def full_statement(request: RequestFacts, *, models: list[ModelFacts], completed_at: float) -> JsonObject:
    """Return the receipt for admin scopes: versions, methods, evidence, the purge list and what remains."""
    return {
        **_head(request, form="full"),
        "completed_at": completed_at,
        "models": [
            _model_part(facts, kind=request.kind) for facts in sorted(models, key=lambda facts: facts.model)
        ],
    }


def not_reached_by(kind: RequestKind) -> list[str]:
    """Return what a receipt of this kind of request lists as out of reach."""
    return [*_NOT_REACHED, _ALSO_NOT_REACHED[kind]]


def _head(request: RequestFacts, *, form: str) -> JsonObject:
    not_reached: list[JsonValue] = [*not_reached_by(request.kind)]
    head: JsonObject = {"type": RECEIPT_TYPE, "form": form, "request": request.request_id}
    head |= {"kind": request.kind} | ({} if request.label is None else {"label": request.label})
    head |= {"commitment": request.commitment, "posted_at": request.posted_at, "due_at": request.due_at}
    if form == "full":
        # The chain's length and content differ between held and unheld subjects.
        head["event_head"] = request.event_head
    head["not_reached"] = not_reached
    return head


def _claim(name: str, *, methods: Sequence[str], kind: RequestKind) -> JsonObject:
    if not methods:
        statement = TRAINED_WITHOUT.format(**_WORDS[kind])
        return {"model": name, "statement": statement, "guarantee": Guarantee.EXACT}
    statement = TREATED.format(methods=" or ".join(methods), **_WORDS[kind])
    return {"model": name, "statement": statement, "guarantee": Guarantee.EMPIRICAL}


def _model_part(facts: ModelFacts, *, kind: RequestKind) -> JsonObject:
    remains: list[JsonValue] = list(facts.remains)
    part: JsonObject = {"model": facts.model, "outcome": facts.outcome, "done_at": facts.done_at}
    method = facts.details.get("method")
    statement = OUTCOMES[Outcome(facts.outcome)].format(method=method, **_WORDS[kind])
    return {**part, "statement": statement, **facts.details, "remains": remains}


def said_of_models(statement: JsonObject) -> list[str]:
    """Return, one line a model, what a receipt of either form says was done."""
    parts = statement.get("models")
    named = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    # Receipts stay valid for years, and the first full ones stated an outcome alone.
    return [f"{part.get('model')}: {part.get('statement', part.get('outcome'))}" for part in named]
