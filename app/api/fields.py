"""The kinds of field in the HTTP contract, each with its check.

Never: a message that repeats what was sent; a body may hold a subject id in any place.
"""

import re
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

from app.keyring import normalised

LONGEST_SUBJECT_ID = 512
UUID_LENGTH = 36
MOST_FEATURES = 1000
LARGEST_WHOLE = 2**53
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*")
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2500, 1, 1, tzinfo=UTC)


def _checked_subject_id(text: str) -> str:
    subject_id = normalised(text)
    if len(subject_id) > LONGEST_SUBJECT_ID:
        raise ValueError(f"the subject id is longer than {LONGEST_SUBJECT_ID} characters")
    return subject_id


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, and databases take no NUL.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text contains a NUL or half a surrogate pair")
    return text


def _iso_text(value: object) -> str:
    # Pydantic would take numbers for times, with a guess at their unit.
    if not isinstance(value, str) or not _ISO_TIME.fullmatch(value):
        raise ValueError("must be an ISO 8601 time with its offset, such as 2027-01-31T12:00:00Z")
    return value


def _within_calendar(time: datetime) -> datetime:
    if not _EARLIEST <= time < _LATEST:
        raise ValueError("must lie between the years 1970 and 2500")
    return time


def _lower_uuid(text: str) -> str:
    if len(text) != UUID_LENGTH:
        raise ValueError("must be a UUID such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427")
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("must be a UUID such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427") from None


def _from_epoch(value: object) -> object:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value


def _base64url(value: object) -> object:
    return urlsafe_b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value


def _numbers_by_name(value: object) -> object:
    # Checked as a whole: the place of a mistake would otherwise repeat a name that was sent.
    if not isinstance(value, dict) or not 1 <= len(value) <= MOST_FEATURES:
        raise ValueError(f"must be an object with 1 to {MOST_FEATURES} numbers")
    for number in value.values():
        if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
            raise ValueError("every value must be a finite number")
        if isinstance(number, int) and abs(number) > LARGEST_WHOLE:
            raise ValueError(f"whole numbers beyond {LARGEST_WHOLE} cannot be told apart")
    return value


Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_encodable)]
RecordId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_encodable)]
TimeIn = Annotated[AwareDatetime, BeforeValidator(_iso_text), AfterValidator(_within_calendar)]
TimeOut = Annotated[datetime, BeforeValidator(_from_epoch)]
Base64Url = Annotated[str, BeforeValidator(_base64url)]
SubjectId = Annotated[
    str,
    AfterValidator(_encodable),
    AfterValidator(_checked_subject_id),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST_SUBJECT_ID}),
]
NumbersByName = Annotated[dict[str, float], BeforeValidator(_numbers_by_name)]
RequestUuid = Annotated[
    str, AfterValidator(_lower_uuid), WithJsonSchema({"type": "string", "format": "uuid"})
]
