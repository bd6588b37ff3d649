"""Append to a request's audit trail, hash-chained per request (a global chain would serialise every post)."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db.requests import newest_event
from app.db.tables import Event
from app.domain.terms import JsonObject
from models_store.manifest import digest_json

CHAIN_START = "0" * 64


def first_event(request_id: str, *, at: float, is_held: bool) -> Event:
    """Return the event that a new request's trail begins with; nothing was written before it."""
    body: JsonObject = {"is_held": True} if is_held else {}
    return _event(request_id, "received", at=at, sequence=1, previous=CHAIN_START, body=body)


def began_held(session: Session, request_id: str) -> bool:
    """Whether a request was held when it was posted, whatever became of it."""
    return bool(session.get_one(Event, (request_id, 1)).body.get("is_held"))


def append_event(session: Session, request_id: str, name: str, body: JsonObject | None = None) -> Event:
    """Add one event; its hash covers the previous one. The caller holds the request's row."""
    sequence, previous, at = newest_event(session, request_id)
    event = _event(request_id, name, at=at, sequence=sequence + 1, previous=previous, body=body or {})
    session.add(event)
    session.flush()
    return event


def _event(request_id: str, name: str, *, at: float, sequence: int, previous: str, body: JsonObject) -> Event:
    event = Event(
        request_id=request_id, sequence=sequence, at=at, name=name, body=body, previous_hash=previous, hash=""
    )
    event.hash = event_hash(event)
    return event


def event_hash(event: Event) -> str:
    """Return the SHA-256 over what the event says and the hash before it."""
    return digest_json(
        {
            "request": event.request_id,
            "sequence": event.sequence,
            "at": event.at,
            "name": event.name,
            "body": event.body,
            "previous": event.previous_hash,
        }
    )


def chain_head(session: Session, request_id: str) -> str:
    """Return the hash of the newest event."""
    return newest_event(session, request_id)[1]


def broken_at(events: Sequence[Event]) -> int | None:
    """Return the sequence number of the first event that does not fit its chain, or None."""
    previous = CHAIN_START
    for event in events:
        if event.previous_hash != previous or event.hash != event_hash(event):
            return event.sequence
        previous = event.hash
    return None
