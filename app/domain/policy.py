"""The policy of a model: what may change without changing a single bit of the training itself."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from app.domain.prior import DeletionPrior
from app.domain.scheduling import DAY_SECONDS

MAX_WINDOW_SECONDS = 30 * DAY_SECONDS
# Three numbers are fitted: on fewer points than this any curve fits.
MIN_POINTS = 8


# The registry of the worker, by guarantee: what settles, and what may only come before.
EXACT_METHODS = ("replay", "retrain")
STITCH = "stitch"
EMPIRICAL_METHODS: tuple[str, ...] = (STITCH,)


class CheckpointPlacement(StrEnum):
    """After which blocks a full checkpoint is kept."""

    ALL = "all"
    SQRT = "sqrt"
    LOG = "log"
    PRIOR = "prior"


@dataclass(frozen=True)
class StitchRule:
    """When checkpoint stitching stops to retrain (He et al. 2021, arXiv 2105.06209).

    ``epsilon`` is how steep the fitted decay of the residual memory may still be (L1 distance of all weights,
    a block); ``min_points`` is how many blocks must have been retrained since the last touched one, and
    ``min_r_squared`` how well the fit must hold: one that does not never stops.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epsilon: float = 1.0
    min_points: int = MIN_POINTS
    min_r_squared: float = 0.7

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"stitch.epsilon must be above 0, not {self.epsilon}")
        if self.min_points < MIN_POINTS:
            raise ValueError(f"stitch.min_points must be at least {MIN_POINTS}, not {self.min_points}")
        if not 0.0 <= self.min_r_squared <= 1.0:
            raise ValueError(f"stitch.min_r_squared must lie between 0 and 1, not {self.min_r_squared}")


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

    ``references`` keeps the weights after every block beside the full checkpoints: what stitching measures
    against. ``stitch`` is its rule.
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
    references: bool = False
    stitch: StitchRule = StitchRule()

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
        self._require_references()

    @property
    def has_references(self) -> bool:
        """Whether the weights after every block are kept, in full checkpoints or beside them."""
        return self.references or self.checkpoints is CheckpointPlacement.ALL

    def _require_references(self) -> None:
        if STITCH in (self.interim_method, self.final_method) and not self.has_references:
            raise ValueError("references must be true for stitching, unless checkpoints is all")

    def require_plan(self, *, num_blocks: int, num_passes: int) -> None:
        """Make sure that the settings fit a plan of so many blocks, met so many times.

        Raises:
            ValueError: one does not; the message begins with its name.
        """
        for name in ("interim_method", "final_method"):
            if num_passes > 1 and getattr(self, name) == STITCH:
                raise ValueError(f"{name}: stitching needs plan.passes = 1, not {num_passes}")
        if self.checkpoint_count is not None and self.checkpoint_count > num_blocks - 1:
            raise ValueError(
                f"checkpoint_count: {num_blocks} blocks have {num_blocks - 1} places before the end"
            )
        try:
            self.prior.block_weights(num_blocks)
        except ValueError as error:
            raise ValueError(f"prior.{error}") from error
