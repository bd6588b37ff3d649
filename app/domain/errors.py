"""Everything that can go wrong in a way a caller can understand.

    ExpungeError
    ├── NotFound            the thing that was named does not exist for this tenant
    │   └── ReceiptNotReady
    ├── Refused             well-formed, but a rule says no
    │   ├── UnknownModels
    │   ├── DoesNotFit
    │   ├── IdempotencyKeyReused
    │   ├── InvalidCursor
    │   ├── IllegalMove
    │   ├── CoverageWouldFall
    │   ├── AliasMovedMeanwhile
    │   ├── VersionRevoked
    │   │   └── VersionPurged
    │   ├── VersionTainted
    │   ├── DueDatePassed
    │   ├── PolicyRefused
    │   ├── NotHeld
    │   └── NameTaken
    ├── AccessDenied
    │   ├── KeyRefused
    │   └── ScopeMissing
    ├── JobError            why a job could not go on
    │   ├── LeaseLost
    │   ├── HandedOver
    │   ├── Overtaken
    │   └── GateFailed
    ├── ReceiptInvalid      the branch that means "do not believe it"
    └── SetupError          keys, database or settings are not what they must be

None of them knows HTTP: ``app/api/errors.py`` holds the one table of answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class ExpungeError(Exception):
    """Root of every error that this project raises on purpose."""


class NotFound(ExpungeError):
    """What was named does not exist here, or belongs to another tenant."""


class ReceiptNotReady(NotFound):
    """The request has not been completed, so there is no receipt yet."""


class Refused(ExpungeError):
    """The request can be understood, but a rule forbids it."""


class UnknownModels(Refused):
    """The request names models that do not exist.

    ``positions`` are the indices in the list that was sent; the names themselves are not repeated.
    """

    def __init__(self, positions: list[int]) -> None:
        super().__init__("the request names a model that does not exist")
        self.positions = positions


@dataclass(frozen=True)
class Misfit:
    """Why something that is asked for cannot be done: a JSON pointer to it, and the reason."""

    pointer: str
    detail: str


class DoesNotFit(Refused):
    """What is asked for does not fit the model or the dataset."""

    def __init__(self, misfits: Sequence[Misfit]) -> None:
        super().__init__("; ".join(misfit.detail for misfit in misfits))
        self.misfits = misfits


class IdempotencyKeyReused(Refused):
    """The same Idempotency-Key came with another body."""


class InvalidCursor(Refused):
    """The page token was not made by this service."""


class IllegalMove(Refused):
    """A status cannot change that way."""


class CoverageWouldFall(Refused):
    """An alias never moves to a version that has forgotten less."""


class AliasMovedMeanwhile(Refused):
    """The alias no longer points where the caller believed."""


class VersionRevoked(Refused):
    """The version saw somebody who is to be forgotten; nobody fetches it any more."""


class VersionPurged(VersionRevoked):
    """The version saw somebody who was forgotten; its bytes are gone."""


class VersionTainted(Refused):
    """No alias moves to a version that saw somebody whose deletion is sealed."""


class DueDatePassed(Refused):
    """The wished due date lies in the past."""


class PolicyRefused(Refused):
    """A policy has no such setting, or it cannot have this value; the message begins with the setting."""


class NotHeld(Refused):
    """Only a request that is held can be approved or rejected."""


class NameTaken(Refused):
    """Another thing of that kind already has this name."""


class AccessDenied(ExpungeError):
    """The caller may not do this."""


class KeyRefused(AccessDenied):
    """The API key is missing, unknown, expired or revoked."""


class ScopeMissing(AccessDenied):
    """The API key does not carry the scope this call needs."""


class JobError(ExpungeError):
    """A job cannot go on."""


class LeaseLost(JobError):
    """Another worker holds the job now: whatever this one wanted to write is refused."""


class HandedOver(JobError):
    """The job was asked to stop and stands where the next worker can go on; nothing went wrong."""


class Overtaken(JobError):
    """An exact version has settled what this interim job is for: there is nothing left to do."""


class GateFailed(JobError):
    """A check forbids the publication; ``checks`` states those that do not hold, with their figures."""

    def __init__(self, problem: str, *, checks: dict[str, Any] | None = None) -> None:
        super().__init__(problem)
        self.checks = checks or {}


class ReceiptInvalid(ExpungeError):
    """The receipt was not signed by that key, or was changed afterwards."""


class SetupError(ExpungeError):
    """Keys, database or settings are missing or do not fit; the message says what to do."""
