"""The sides of a shard, read from its data file: whom a job forgets, whom it keeps, whom nobody trained on.

Promises: forgotten records come from the tombstones alone. Never: more in memory than the installation
allows; beyond that, a batch is read when it is asked for.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.services.prepare import Scope
from worker.context import JobContext
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.unlearners.gradient.records import Records, Side, Sides, TensorRecords

# A float32 of the device stands for one stored feature of as little as a byte.
_BYTES_A_FEATURE = 4


@dataclass(frozen=True)
class FileRecords:
    """Records that are read from the data file batch by batch."""

    loader: Loader
    table: RecordTable

    def __len__(self) -> int:
        return len(self.table)

    def inputs(self, indices_B: Tensor) -> Tensor:
        """Return their inputs (B, *)."""
        return self._read(indices_B)[0]

    def targets(self, indices_B: Tensor) -> Tensor:
        """Return their labels (B,)."""
        return self._read(indices_B)[1]

    def _read(self, indices_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.loader.select(self.table.chosen(indices_B.cpu().numpy()))


@dataclass(frozen=True)
class ShardRecords:
    """What a method may be given of one shard; ``corrected`` are among the retained, and may be nobody."""

    sides: Sides
    corrected: Records | None


class Loaded:
    """Reads a job's records shard by shard, so that no more than one shard's are held.

    ``retained`` are those that the new version may be made from. The forgotten ones are all that the version
    was trained on which the job starts from, and that it has not forgotten.
    """

    def __init__(self, context: JobContext, scope: Scope, *, retained: RecordTable) -> None:
        self._context = context
        unsettled = {"above": scope.forgets_above, "covers": scope.covers}
        self._people = context.forgotten(**unsettled, is_learned=True).training()
        self._kept = retained.training()
        self._corrected = context.corrected(**unsettled).training()
        # The one place that asks for forget-set bytes to change weights by.
        self._of_forgotten, self._of_retained = (
            context.loader(each, reads_all=False) for each in (self._people, retained)
        )
        self._held_out = _records(context, self._of_retained, retained.held_out())

    @property
    def shards(self) -> frozenset[int]:
        """The shards that somebody is to be forgotten in."""
        return frozenset(int(shard) for shard in self._people.shard_N)

    def of(self, shard: int) -> ShardRecords:
        """Return what a method may be given of one shard."""
        come = _in_shard(self._corrected, shard)
        sides = {
            Side.FORGET: _records(self._context, self._of_forgotten, _in_shard(self._people, shard)),
            Side.RETAIN: _records(self._context, self._of_retained, _in_shard(self._kept, shard)),
            Side.HELD_OUT: self._held_out,
        }
        corrected = _records(self._context, self._of_retained, come) if len(come) else None
        return ShardRecords(sides, corrected)


def _in_shard(table: RecordTable, shard: int) -> RecordTable:
    return table.chosen(np.flatnonzero(table.shard_N == shard))


def _records(context: JobContext, loader: Loader, table: RecordTable) -> Records:
    size = len(table) * int(np.prod(context.model.layout.shape)) * _BYTES_A_FEATURE
    if size > context.installation.settings.resident_bytes or not len(table):
        return FileRecords(loader, table)
    inputs, labels = loader.select(table)
    return TensorRecords(inputs.clone(memory_format=torch.contiguous_format), labels)
