"""Append to a request's audit trail, hash-chained per request (a global chain would serialise every post)."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db.jobs import now
from app.db.requests import events_of
from app.db.tables import Event
from app.domain.terms import JsonObject
from models_store.manifest import digest_json

CHAIN_START = "0" * 64


def append_event(session: Session, request_id: str, name: str, body: JsonObject | None = None) -> Event:
    """Add one event; its hash covers the previous one. The caller holds the request's row."""
    chain = events_of(session, request_id)
    previous = chain[-1].hash if chain else CHAIN_START
    event = Event(
        request_id=request_id,
        sequence=len(chain) + 1,
        at=now(session),
        name=name,
        body=body or {},
        previous_hash=previous,
        hash="",
    )
    event.hash = event_hash(event)
    session.add(event)
    session.flush()
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
    chain = events_of(session, request_id)
    return chain[-1].hash if chain else CHAIN_START


def broken_at(events: Sequence[Event]) -> int | None:
    """Return the sequence number of the first event that does not fit its chain, or None."""
    previous = CHAIN_START
    for event in events:
        if event.previous_hash != previous or event.hash != event_hash(event):
            return event.sequence
        previous = event.hash
    return None
