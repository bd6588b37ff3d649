"""Where deletions are expected to fall: a weight for each block of the plan.

Promises: weights are finite, none is negative, at least one is positive. Never looks at who is stored: the
same prior gives the same weights before and after any deletion.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class PriorKind(StrEnum):
    """The shapes of a prior."""

    UNIFORM = "uniform"
    RECENCY = "recency"
    HOT_SHARE = "hot_share"
    WEIGHTS = "weights"


_SETTINGS = {
    PriorKind.UNIFORM: (),
    PriorKind.RECENCY: ("half_life_blocks",),
    PriorKind.HOT_SHARE: ("deletion_share", "block_share"),
    PriorKind.WEIGHTS: ("weights",),
}


@dataclass(frozen=True)
class DeletionPrior:
    """The share of deletions whose first touched block is each block, up to a factor.

    ``uniform``: every subject is equally likely. ``recency``: a block is twice as likely as the one
    ``half_life_blocks`` before it. ``hot_share``: ``deletion_share`` of the deletions fall on the last
    ``block_share`` of the blocks. ``weights``: one number a block.
    """

    # Unknown keys are refused, not ignored (read by pydantic).
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    kind: PriorKind = PriorKind.UNIFORM
    half_life_blocks: float | None = None
    deletion_share: float | None = None
    block_share: float | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("half_life_blocks", "deletion_share", "block_share", "weights"):
            _require_given(name, kind=self.kind, is_given=getattr(self, name) is not None)
        if self.half_life_blocks is not None and not 0 < self.half_life_blocks < math.inf:
            raise ValueError(f"half_life_blocks must be above 0 and finite, not {self.half_life_blocks}")
        if self.deletion_share is not None and not 0 <= self.deletion_share <= 1:
            raise ValueError(f"deletion_share must lie between 0 and 1, not {self.deletion_share}")
        if self.block_share is not None and not 0 < self.block_share < 1:
            raise ValueError(f"block_share must lie between 0 and 1, without both, not {self.block_share}")
        if self.weights is not None:
            _require_weights(self.weights)

    def block_weights(self, num_blocks: int) -> list[float]:
        """Return the weight of each block; they need not sum to 1.

        Raises:
            ValueError: ``weights`` is a list of another length.
        """
        match self.kind:
            case PriorKind.UNIFORM:
                return [1.0] * num_blocks
            case PriorKind.RECENCY:
                assert self.half_life_blocks is not None
                ages = range(num_blocks - 1, -1, -1)
                return [2.0 ** (-age / self.half_life_blocks) for age in ages]
            case PriorKind.HOT_SHARE:
                return self._hot_weights(num_blocks)
            case PriorKind.WEIGHTS:
                assert self.weights is not None
                if len(self.weights) != num_blocks:
                    raise ValueError(f"weights: give {num_blocks}, one a block, not {len(self.weights)}")
                return list(self.weights)

    def _hot_weights(self, num_blocks: int) -> list[float]:
        """Spread each share evenly over its end of the plan; the border may cut through a block."""
        assert self.deletion_share is not None
        assert self.block_share is not None
        num_hot = self.block_share * num_blocks
        hot = [min(1.0, max(0.0, num_hot - age)) for age in range(num_blocks - 1, -1, -1)]
        inside, outside = self.deletion_share / num_hot, (1 - self.deletion_share) / (num_blocks - num_hot)
        return [part * inside + (1 - part) * outside for part in hot]


def _require_given(name: str, *, kind: PriorKind, is_given: bool) -> None:
    is_needed = name in _SETTINGS[kind]
    if is_needed and not is_given:
        raise ValueError(f"{name} is missing, and kind = {kind} needs it")
    if is_given and not is_needed:
        raise ValueError(f"{name} has no meaning with kind = {kind}")


def _require_weights(weights: tuple[float, ...]) -> None:
    for block, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights[{block}] must be 0 or more and finite, not {weight}")
    if not any(weights):
        raise ValueError("weights must not all be 0")
