"""The records of one run as arrays, without their bytes: who they are and where the plan puts them.

Shape suffixes: N records.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

NO_PLACE = -1
NO_TOKEN = bytes(16)
_FIELDS = ("row", "record_ref", "salt", "content_digest", "is_held_out", "shard", "block", "token")


@dataclass(frozen=True)
class RecordTable:
    """Records in row order. ``shard_N`` and ``block_N`` are -1 for held-out records."""

    row_N: npt.NDArray[np.int64]
    record_refs: Sequence[bytes]
    salts: Sequence[bytes]
    content_digests: Sequence[bytes]
    is_held_out_N: npt.NDArray[np.bool_]
    shard_N: npt.NDArray[np.int64]
    block_N: npt.NDArray[np.int64]
    token_N2: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.row_N)

    def chosen(self, indices: npt.NDArray[np.intp]) -> "RecordTable":
        """Return these records, in this order."""
        return RecordTable(
            row_N=self.row_N[indices],
            record_refs=[self.record_refs[i] for i in indices],
            salts=[self.salts[i] for i in indices],
            content_digests=[self.content_digests[i] for i in indices],
            is_held_out_N=self.is_held_out_N[indices],
            shard_N=self.shard_N[indices],
            block_N=self.block_N[indices],
            token_N2=self.token_N2[indices],
        )

    def training(self) -> "RecordTable":
        """Return the records that training meets, ordered by shard, block and row."""
        indices = np.flatnonzero(~self.is_held_out_N)
        order = np.lexsort((self.row_N[indices], self.block_N[indices], self.shard_N[indices]))
        return self.chosen(indices[order])

    def held_out(self) -> "RecordTable":
        """Return the records that training never meets."""
        return self.chosen(np.flatnonzero(self.is_held_out_N))

    def first(self, num: int) -> "RecordTable":
        """Return a fixed choice of at most ``num`` records, by the hash of each one's own ref."""
        ranks = [hashlib.sha256(b"choice\0" + ref).digest() for ref in self.record_refs]
        order = sorted(range(len(self)), key=ranks.__getitem__)[:num]
        return self.chosen(np.array(sorted(order), dtype=np.intp))

    def leaves(self) -> list[bytes]:
        """Return SHA-256(salt || record_ref || content digest) of each record.

        Salted, so that nobody can test membership after the purge; content-bound, so that a corrected
        record is another leaf.
        """
        parts = zip(self.salts, self.record_refs, self.content_digests, strict=True)
        return [hashlib.sha256(salt + ref + digest).digest() for salt, ref, digest in parts]


def table_from_rows(rows: Iterable[Any]) -> RecordTable:
    """Return the table of database rows; each has the fields that ``_FIELDS`` names."""
    columns = list(zip(*map(attrgetter(*_FIELDS), rows), strict=True)) or [()] * len(_FIELDS)
    row, refs, salts, digests, held_out, shard, block, token = columns
    return RecordTable(
        row_N=np.array(row, dtype=np.int64),
        record_refs=refs,
        salts=salts,
        content_digests=digests,
        is_held_out_N=np.array(held_out, dtype=np.bool_),
        shard_N=np.array([NO_PLACE if s is None else s for s in shard], dtype=np.int64),
        block_N=np.array([NO_PLACE if b is None else b for b in block], dtype=np.int64),
        token_N2=np.frombuffer(b"".join(t or NO_TOKEN for t in token), dtype="<u8").reshape(-1, 2),
    )
