"""Page tokens: opaque, signed, and good for the list they were made for alone.

A token names the last row of a page by its sort key. The MAC covers tenant and filters too, so that no
token walks through somebody else's list or through another selection.
"""

import binascii
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

from app.domain.errors import InvalidCursor
from app.domain.terms import JsonObject
from app.keyring import Keyring
from models_store.manifest import canonical_json

_MAC_BYTES = 16
_LONGEST = 512

Position = tuple[float, str]
"""``posted_at``, or ``due_at`` in a list by due date, and id of the last request that was shown."""


def token_of(position: Position, *, selection: JsonObject, keyring: Keyring) -> str:
    """Return the token that continues after ``position``."""
    place = canonical_json(list(position))
    return urlsafe_b64encode(_mac(place, selection, keyring) + place).rstrip(b"=").decode()


def position_of(token: str, *, selection: JsonObject, keyring: Keyring) -> Position:
    """Return where a token continues.

    Raises:
        InvalidCursor: it was not made here, or for another list.
    """
    data = _decoded(token)
    mac, place = data[:_MAC_BYTES], data[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(place, selection, keyring)):
        raise InvalidCursor("the page token was not made for this list")
    posted_at, request_id = json.loads(place)
    return float(posted_at), str(request_id)


def _decoded(token: str) -> bytes:
    try:
        raw = token.encode("ascii")
        if len(raw) > _LONGEST:
            raise ValueError("too long")
        return urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise InvalidCursor("the page token was not made for this list") from error


def _mac(place: bytes, selection: JsonObject, keyring: Keyring) -> bytes:
    return keyring.mac("page-token", canonical_json(selection) + b"\0" + place)[:_MAC_BYTES]
