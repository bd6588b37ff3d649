"""The policy of a model: what may change without changing a single bit of the training itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from app.domain.scheduling import DAY_SECONDS

MAX_WINDOW_SECONDS = 30 * DAY_SECONDS


# The registry of the worker, by guarantee. What is empirical comes before an exact method, or settles where
# the policy says so in words.
EXACT_METHODS = ("replay", "retrain")
EMPIRICAL_METHODS: tuple[str, ...] = ()


class WhenGateFails(StrEnum):
    """What a settle job does when a gate refuses what its empirical method made."""

    NEXT = "next"
    FAIL = "fail"


class CheckpointPlacement(StrEnum):
    """After which blocks a full checkpoint is kept."""

    ALL = "all"
    SQRT = "sqrt"


@dataclass(frozen=True)
class Policy:
    """Settings of one model outside its recipe's digest.

    ``max_drop`` is a share of accuracy (0.02 = two points); ``witness_blocks`` is how many blocks besides
    the first touched one a fresh process recomputes (0 to 3); ``final_method`` settles deletions, and
    ``interim_method`` publishes an empirical version before it. Only with ``accept_empirical`` may an
    empirical method settle; when a gate refuses its version, ``when_gate_fails`` says if the job goes on
    with the ``next`` method, exact replay, or is to ``fail``. Deletions that wait share one job: it starts
    ``batch_window_seconds`` after the first of them, with ``batch_count`` of them, or when it must to be in
    time, whichever comes first. With ``hold`` every deletion waits for an admin's approval.
    """

    # Unknown keys in a recipe's [policy] table are refused, not ignored (read by pydantic).
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    checkpoints: CheckpointPlacement = CheckpointPlacement.SQRT
    max_drop: float = 0.02
    witness_blocks: int = 1
    final_method: str = "replay"
    interim_method: str | None = None
    accept_empirical: bool = False
    when_gate_fails: WhenGateFails = WhenGateFails.NEXT
    batch_window_seconds: float = 0.0
    batch_count: int | None = None
    hold: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_drop <= 1.0:
            raise ValueError(f"max_drop must lie between 0 and 1, not {self.max_drop}")
        if not 0 <= self.witness_blocks <= 3:
            raise ValueError(f"witness_blocks must lie between 0 and 3, not {self.witness_blocks}")
        if not 0.0 <= self.batch_window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"batch_window_seconds must be 0 to 30 days, not {self.batch_window_seconds}")
        if self.batch_count is not None and self.batch_count < 1:
            raise ValueError(f"batch_count must be at least 1, not {self.batch_count}")

    @property
    def settles_empirically(self) -> bool:
        """Whether deletions may be finished by an empirical method, without an exact version to come."""
        return self.accept_empirical and self.final_method not in EXACT_METHODS


def require_methods(policy: Policy) -> None:
    """Refuse methods that do not exist, or that may not do what the policy wants of them.

    Asked where settings come in. A policy that is stored is believed: a release may drop a method.

    Raises:
        ValueError: names the field.
    """
    _require_known("final_method", policy.final_method, known=EXACT_METHODS + EMPIRICAL_METHODS)
    if policy.final_method in EMPIRICAL_METHODS and not policy.accept_empirical:
        raise ValueError(
            f"final_method: {policy.final_method} is empirical and proves nothing; "
            "set accept_empirical = true as well if that shall do"
        )
    if policy.interim_method is None:
        return
    _require_known("interim_method", policy.interim_method, known=EMPIRICAL_METHODS)
    if policy.settles_empirically:
        raise ValueError("interim_method: comes before an exact final_method only; leave it out")


def _require_known(setting: str, name: str, *, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{setting}: choose one of {', '.join(known) or 'none, there is no method yet'}")
