"""Checkpoint keys: a digest of every input of a state. A changed input can only miss.

The prefix digest chains, block by block, the sorted leaves of the records met so far; leaves are salted
and content-bound, so a corrected record is another leaf and a purged one cannot be tested for.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models_store.manifest import digest_json
from worker.data.records import RecordTable
from worker.training.recipe import PlanPart


@dataclass(frozen=True)
class RunIdentity:
    """What two runs must share, besides their records, to give the same states."""

    recipe_digest: str
    plan_key_id: str
    environment_digest: str
    factory_digest: str

    def digest(self) -> str:
        """Return one digest of all of it (the environment covers our training code)."""
        parts = (self.recipe_digest, self.plan_key_id, self.environment_digest, self.factory_digest)
        return digest_json(list(parts))


def checkpoint_keys(identity: RunIdentity, table: RecordTable, *, plan: PlanPart, shard: int) -> list[str]:
    """Return the key of the state after each position of a shard, for these training records."""
    base = identity.digest()
    # The leaves of one shard alone: of S shards, each would else hash the records of all.
    members = np.flatnonzero(~table.is_held_out_N & (table.shard_N == shard))
    prefixes = _prefix_digests(_block_digests(table.chosen(members), plan=plan), passes=plan.passes)
    return [
        hashlib.sha256(f"{base}|{shard}|{position}|".encode() + prefix).hexdigest()
        for position, prefix in enumerate(prefixes)
    ]


def records_digest(table: RecordTable) -> str:
    """Return the SHA-256 over the sorted leaves of the training records: what a version was trained on."""
    return hashlib.sha256(b"".join(sorted(table.training().leaves()))).hexdigest()


def _block_digests(members_of_shard: RecordTable, *, plan: PlanPart) -> list[bytes]:
    leaves = members_of_shard.leaves()
    digests = []
    for block in range(plan.blocks):
        members = np.flatnonzero(members_of_shard.block_N == block)
        digests.append(hashlib.sha256(b"".join(sorted(leaves[i] for i in members))).digest())
    return digests


def _prefix_digests(blocks: Sequence[bytes], *, passes: int) -> list[bytes]:
    """Chain the block digests over all passes; from the second pass on, every record has been met."""
    prefix = b"\0" * 32
    prefixes = []
    for block_digest in [digest for _ in range(passes) for digest in blocks]:
        prefix = hashlib.sha256(prefix + block_digest).digest()
        prefixes.append(prefix)
    return prefixes
