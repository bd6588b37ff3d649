"""After which positions a full checkpoint is kept, and what a deletion then costs.

Dense checkpoints buy little for replay: at 500 blocks, about sqrt(500) of them cost 4 % more blocks than one
after every block. A deletion resumes before the subject's first touched block, which lies in the first pass:
with several passes no deletion ever resumes from a later one, and only the end of the last pass is kept.

Shape suffixes: S shards, B blocks of a shard.
"""

import bisect
import math
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from app.domain.policy import CheckpointPlacement, Policy
from worker.training.recipe import PlanPart

BEFORE_FIRST = -1

Counts = npt.NDArray[np.int64]


def kept_positions(policy: Policy, *, plan: PlanPart) -> list[int]:
    """Return the positions in each shard, the last one always among them: it is the base of the next job."""
    last = plan.num_positions - 1
    return sorted({*_resume_positions(policy, num_blocks=plan.blocks), last})


def _resume_positions(policy: Policy, *, num_blocks: int) -> Iterable[int]:
    """Return those that a deletion may resume from; nobody's lies behind the last but one block."""
    match policy.checkpoints:
        case CheckpointPlacement.ALL:
            return range(num_blocks - 1)
        case CheckpointPlacement.SQRT:
            num = default_count(num_blocks)
            return {(k + 1) * num_blocks // (num + 1) - 1 for k in range(num)} - {BEFORE_FIRST}
        case CheckpointPlacement.LOG:
            # Whoever needs c blocks runs the next power of two: less than 2 c, whatever the prior is.
            return (num_blocks - 2**j - 1 for j in range((num_blocks - 1).bit_length()))
        case CheckpointPlacement.PRIOR:
            num = policy.checkpoint_count or default_count(num_blocks)
            return best_positions(tuple(policy.prior.block_weights(num_blocks)), num=num)


def default_count(num_blocks: int) -> int:
    """Return about the root of the blocks."""
    return round(math.sqrt(num_blocks))


@lru_cache(maxsize=16)
def best_positions(weights: tuple[float, ...], *, num: int) -> tuple[int, ...]:
    """Return the ``num`` positions that make a deletion cheapest when block b is hit ``weights[b]`` often.

    One-sided k-median on a line: a deletion in block b runs from after the newest position before b. A
    position q after r spares the q - r blocks between them to everybody behind q, hence
    ``best[q] = max over r < q of best[r] + (q - r) * behind[q]``. The candidates r are lines in behind[q],
    which never grows with q, so their upper envelope is walked once: O(num * B) in all.
    """
    behind = list(accumulate(weights[:0:-1]))[::-1]  # of position q: the weight of the blocks after it
    num = min(num, len(behind))
    if num == 0:
        return ()
    best = [(q + 1) * behind[q] for q in range(len(behind))]
    origins: list[list[int]] = []
    for layer in range(1, num):
        best, origin = _next_layer(best, behind, first=layer)
        origins.append(origin)
    position = max(range(num - 1, len(best)), key=best.__getitem__)
    chosen = [position]
    for origin in reversed(origins):
        chosen.append(origin[chosen[-1]])
    return tuple(reversed(chosen))


def _next_layer(best: list[float], behind: list[float], *, first: int) -> tuple[list[float], list[int]]:
    """Return what one position more spares, by where it stands (from ``first`` on), and the one before it."""
    spared, origin = [0.0] * len(best), [BEFORE_FIRST] * len(best)
    envelope: deque[int] = deque()

    def crossing(r: int, later: int) -> float:
        """Below this weight behind, ``later`` is the better one of two."""
        return (best[later] - best[r]) / (later - r)

    for q in range(first, len(best)):
        r = q - 1
        while len(envelope) > 1 and crossing(envelope[-1], r) >= crossing(envelope[-2], envelope[-1]):
            envelope.pop()
        envelope.append(r)
        while len(envelope) > 1 and crossing(envelope[0], envelope[1]) >= behind[q]:
            envelope.popleft()
        origin[q] = envelope[0]
        spared[q] = best[origin[q]] + (q - origin[q]) * behind[q]
    return spared, origin


def resume_before(position: int, kept: Sequence[int]) -> int:
    """Return the newest kept position before ``position``, or ``BEFORE_FIRST`` (initialisation)."""
    index = bisect.bisect_left(kept, position)
    return kept[index - 1] if index else BEFORE_FIRST


def first_touched_counts(
    subject_refs: Sequence[bytes], shard_N: Counts, block_N: Counts, *, plan: PlanPart
) -> Counts:
    """Return (S, B): how many subjects training meets first in each block, whatever they have behind it.

    All are given record by record; the records of a subject lie in one shard.
    """
    firsts: dict[bytes, tuple[int, int]] = {}
    for ref, shard, block in zip(subject_refs, shard_N.tolist(), block_N.tolist(), strict=True):
        firsts[ref] = min((shard, block), firsts.get(ref, (shard, block)))
    counts_SB = np.zeros((plan.shards, plan.blocks), dtype=np.int64)
    for place in firsts.values():
        counts_SB[place] += 1
    return counts_SB


def expected_blocks(
    kept: Sequence[int], counts_SB: Counts, *, plan: PlanPart, weights: Sequence[float] | None = None
) -> float:
    """Return how many blocks the deletion of one subject replays on average; 0 without subjects.

    Without ``weights`` every subject is equally likely. With them (one a block) a deletion falls on the
    blocks of its shard by weight, among those where somebody begins, and on every subject of a block alike.
    """
    replayed_B = np.array(
        [plan.num_positions - 1 - resume_before(block, kept) for block in range(plan.blocks)]
    )
    return _mean(replayed_B, counts_SB, weights=weights)


def witness_gaps(kept: Sequence[int], counts_SB: Counts, *, plan: PlanPart) -> tuple[float, int]:
    """Return mean (over subjects) and maximum (over blocks) of the blocks between resume point and touched.

    The witness recomputes them besides the touched block itself.
    """
    gaps = [block - 1 - resume_before(block, kept) for block in range(plan.blocks)]
    return _mean(np.array(gaps), counts_SB), max(gaps)


def _mean(costs_B: Counts, counts_SB: Counts, *, weights: Sequence[float] | None = None) -> float:
    """Return the mean cost over subjects; a deletion picks its shard by the number of subjects."""
    num_subjects = int(counts_SB.sum())
    if not num_subjects:
        return 0.0
    if weights is None:
        return float((counts_SB @ costs_B).sum() / num_subjects)
    total = 0.0
    for counts_B in counts_SB:
        weights_B = np.where(counts_B > 0, np.array(weights), 0.0)
        if not weights_B.any():  # nobody where deletions are expected: then anybody
            weights_B = counts_B.astype(np.float64)
        if counts_B.any():
            total += counts_B.sum() * float(weights_B @ costs_B / weights_B.sum())
    return float(total / num_subjects)
