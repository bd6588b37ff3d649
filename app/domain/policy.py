"""The policy of a model: what may change without changing a single bit of the training itself."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from app.domain.prior import DeletionPrior
from app.domain.scheduling import DAY_SECONDS

MAX_WINDOW_SECONDS = 30 * DAY_SECONDS


# The registry of the worker, by guarantee: what settles, and what may only come before.
EXACT_METHODS = ("replay", "retrain")
EMPIRICAL_METHODS: tuple[str, ...] = ()


class CheckpointPlacement(StrEnum):
    """After which blocks a full checkpoint is kept."""

    ALL = "all"
    SQRT = "sqrt"
    LOG = "log"
    PRIOR = "prior"


@dataclass(frozen=True)
class Policy:
    """Settings of one model outside its recipe's digest.

    ``checkpoint_count`` is how many checkpoints ``checkpoints = prior`` keeps before the end (None: about the
    root of the blocks), where they suit the ``prior`` of deletions best.
    ``max_drop`` is a share of accuracy (0.02 = two points); ``witness_blocks`` is how many blocks besides
    the first touched one a fresh process recomputes (0 to 3); ``final_method`` settles deletions, and
    ``interim_method`` publishes an empirical version before it. Deletions that wait share one job: it starts
    ``batch_window_seconds`` after the first of them, with ``batch_count`` of them, or when it must to be in
    time, whichever comes first. With ``hold`` every deletion waits for an admin's approval.
    """

    # Unknown keys in a recipe's [policy] table are refused, not ignored (read by pydantic).
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    checkpoints: CheckpointPlacement = CheckpointPlacement.SQRT
    checkpoint_count: int | None = None
    prior: DeletionPrior = field(default_factory=DeletionPrior)
    max_drop: float = 0.02
    witness_blocks: int = 1
    final_method: str = "replay"
    interim_method: str | None = None
    batch_window_seconds: float = 0.0
    batch_count: int | None = None
    hold: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint_count is not None and self.checkpoint_count < 1:
            raise ValueError(f"checkpoint_count must be at least 1, not {self.checkpoint_count}")
        if not 0.0 <= self.max_drop <= 1.0:
            raise ValueError(f"max_drop must lie between 0 and 1, not {self.max_drop}")
        if not 0 <= self.witness_blocks <= 3:
            raise ValueError(f"witness_blocks must lie between 0 and 3, not {self.witness_blocks}")
        if not 0.0 <= self.batch_window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"batch_window_seconds must be 0 to 30 days, not {self.batch_window_seconds}")
        if self.batch_count is not None and self.batch_count < 1:
            raise ValueError(f"batch_count must be at least 1, not {self.batch_count}")

    def require_blocks(self, num_blocks: int) -> None:
        """Make sure that the settings fit a plan of so many blocks.

        Raises:
            ValueError: one does not; the message begins with its name.
        """
        if self.checkpoint_count is not None and self.checkpoint_count > num_blocks - 1:
            raise ValueError(
                f"checkpoint_count: {num_blocks} blocks have {num_blocks - 1} places before the end"
            )
        try:
            self.prior.block_weights(num_blocks)
        except ValueError as error:
            raise ValueError(f"prior.{error}") from error
