"""What product scopes see of a request: nothing that depends on whether a model held the subject.

Every target shows ``scheduled`` and then ``completed``; the moment is the later of the real end and
``reveal_at`` (posted plus the predicted settle time), for held and unheld subjects alike.
"""

import math
from dataclasses import dataclass

from app.domain.scheduling import visible_at
from app.domain.status import RequestStatus, TargetStatus

# Whether a request is held, cancelled or rejected does not depend on whom it is about.
PRODUCT_EVENTS = ("received", "approved", "scheduled", "completed", "cancelled", "rejected")
LONGEST_WAIT_SECONDS = 60


@dataclass(frozen=True)
class Clocked:
    """The times of one request that decide what shows at ``now``; UTC seconds."""

    completed_at: float | None
    reveal_at: float
    now: float

    @property
    def shown_completed_at(self) -> float | None:
        """When a product sees it completed; None as long as it does not."""
        if self.completed_at is None:
            return None
        seen = visible_at(self.completed_at, self.reveal_at)
        return seen if seen <= self.now else None


def public_status(status: RequestStatus, times: Clocked) -> RequestStatus:
    """Return the status that product scopes see."""
    match status:
        case RequestStatus.COMPLETED:
            return status if times.shown_completed_at is not None else RequestStatus.SCHEDULED
        case RequestStatus.RUNNING | RequestStatus.FAILED:
            # A failure, like a run, happens only to those who were held.
            return RequestStatus.SCHEDULED
        case _:
            return status


def public_target_status(status: RequestStatus, times: Clocked) -> TargetStatus:
    """Return the status that product scopes see of every target of a request."""
    match public_status(status, times):
        case RequestStatus.COMPLETED:
            return TargetStatus.COMPLETED
        case RequestStatus.CANCELLED | RequestStatus.REJECTED:
            return TargetStatus.CANCELLED
        case _:
            return TargetStatus.SCHEDULED


def seconds_to_wait(times: Clocked) -> int:
    """Return when to ask again: what ``Retry-After`` says, the same whoever the subject is."""
    return max(1, min(LONGEST_WAIT_SECONDS, math.ceil(times.reveal_at - times.now)))
