"""After which positions a full checkpoint is kept, and what a deletion then costs.

Dense checkpoints buy little for replay: at 500 blocks, about sqrt(500) of them cost 4 % more blocks than one
after every block.
"""

import bisect
import math
from collections.abc import Sequence

from app.domain.policy import CheckpointPlacement

BEFORE_FIRST = -1


def kept_positions(placement: CheckpointPlacement, *, num_positions: int) -> list[int]:
    """Return the positions, the last one always among them: it is the base of the next job."""
    last = num_positions - 1
    match placement:
        case CheckpointPlacement.ALL:
            return list(range(num_positions))
        case CheckpointPlacement.SQRT:
            num = round(math.sqrt(num_positions))
            return sorted({(k + 1) * num_positions // (num + 1) - 1 for k in range(num)} - {-1} | {last})


def resume_before(position: int, kept: Sequence[int]) -> int:
    """Return the newest kept position before ``position``, or ``BEFORE_FIRST`` (initialisation)."""
    index = bisect.bisect_left(kept, position)
    return kept[index - 1] if index else BEFORE_FIRST


def expected_replay_share(kept: Sequence[int], *, block_sizes: Sequence[int], num_positions: int) -> float:
    """Return the share of all blocks that one deletion replays, the records being equally likely."""
    total = sum(block_sizes)
    if not total:
        return 0.0
    replayed = sum(
        size * (num_positions - 1 - resume_before(block, kept)) for block, size in enumerate(block_sizes)
    )
    return replayed / (total * num_positions)
