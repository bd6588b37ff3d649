"""The plan: the order of training as a pure function of each record's own key.

No count, rank or other record enters it, so a process that never had a record plans all others
identically. Only the recipe's numbers, the secret plan key, and the record's own refs, spread and likelihood
do.

Shape suffixes: N records of a block.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.training.recipe import PlanPart

TOKEN_BYTES = 16
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BATCH, _RANK, _SEED, _INIT = 1, 2, 3, 4

Tokens = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Visit:
    """One epoch over one block."""

    shard: int
    pass_index: int
    block: int
    epoch: int


@dataclass(frozen=True)
class Placed:
    """Where a record belongs, and the 16 bytes that its order comes from."""

    shard: int
    block: int
    token: bytes


def place(
    plan_key: bytes,
    plan: PlanPart,
    *,
    record_ref: bytes,
    subject_ref: bytes,
    spread: int = 1,
    likelihood: float | None = None,
) -> Placed:
    """Return shard, block and token of a record: HMACs of its own refs under the plan key.

    All records of a subject lie in one block, or in ``spread`` consecutive draws of a block. Which range of
    blocks is drawn from, its own ``likelihood`` of deletion and the recipe's cuts say.
    """
    token = hmac.digest(plan_key, record_ref, "sha256")[:TOKEN_BYTES]
    shard = _subject_hash(plan_key, "shard", subject_ref) % plan.shards
    draw = int.from_bytes(token[:8], "little") % spread
    name = "block" if draw == 0 else f"block/{draw}"
    band = plan.bands[plan.band_of(likelihood)]
    block = band[_subject_hash(plan_key, name, subject_ref) % len(band)]
    return Placed(shard=shard, block=block, token=token)


def tokens_from_bytes(joined: bytes) -> Tokens:
    """Return tokens as an (N, 2) array of the two 64-bit halves."""
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


def batches_of(plan: PlanPart, tokens_N2: Tokens, visit: Visit) -> Sequence[npt.NDArray[np.intp]]:
    """Return, for every batch of a visit, the indices of its records in order; a batch may be empty."""
    key = _visit_key(plan, visit)
    batch_N = _mix_array(tokens_N2[:, 0] ^ np.uint64(_mix(key ^ _BATCH))) % np.uint64(plan.batches_per_block)
    rank_N = _mix_array(tokens_N2[:, 1] ^ np.uint64(_mix(key ^ _RANK)))
    # The token itself breaks a tie of ranks: the order stays a function of the records alone.
    order_N = np.lexsort((tokens_N2[:, 0], tokens_N2[:, 1], rank_N, batch_N))
    bounds = np.searchsorted(batch_N[order_N], np.arange(1, plan.batches_per_block, dtype=np.uint64))
    return np.split(order_N, bounds)


def batch_seed(plan: PlanPart, visit: Visit, *, batch: int) -> int:
    """Return the generator seed (63 bits) of one batch, for dropout."""
    return _mix(_mix(_visit_key(plan, visit) ^ _SEED) ^ batch) >> 1


def init_seed(plan: PlanPart, *, shard: int) -> int:
    """Return the seed (63 bits) of a constituent's initial weights."""
    return _mix(_mix(plan.seed ^ _INIT) ^ shard) >> 1


def schedule_step(plan: PlanPart, *, position: int, epoch: int, batch: int) -> int:
    """Return which step of the schedule a batch is, whether or not it has records."""
    return (position * plan.epochs + epoch) * plan.batches_per_block + batch


def chosen_positions(key: bytes, *, candidates: Sequence[int], num: int) -> list[int]:
    """Return ``num`` of the candidates by keyed hash, in order: nobody can guess them beforehand."""
    ranked = sorted(candidates, key=lambda p: hmac.digest(key, p.to_bytes(8, "little"), "sha256"))
    return sorted(ranked[:num])


def _subject_hash(plan_key: bytes, name: str, subject_ref: bytes) -> int:
    digest = hmac.digest(plan_key, name.encode() + b"\0" + subject_ref, "sha256")
    return int.from_bytes(digest[:8], "little")


def _visit_key(plan: PlanPart, visit: Visit) -> int:
    key = _mix(plan.seed)
    for part in (visit.shard, visit.pass_index, visit.block, visit.epoch):
        key = _mix(key ^ part)
    return key


def _mix(value: int) -> int:
    """splitmix64 (Steele, Lea and Flood 2014, figure 16) of one integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_array(values_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The same as ``_mix``, elementwise; unsigned arithmetic wraps as it must."""
    values_N = values_N + np.uint64(_GOLDEN)
    values_N = (values_N ^ (values_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_N = (values_N ^ (values_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values_N ^ (values_N >> np.uint64(31))
