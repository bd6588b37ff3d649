"""The loader: records as float tensors on the device, block by block.

Promises: a record whose stored bytes were erased or altered is refused by its row number; every batch has
the same memory format, so that strides never change the bits; forget-set bytes are there only for a caller
that put those records into the table, and *poisoned* ones become NaN.

Shape suffixes: N records, * the shape of one input.
"""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from worker.data.data_files import DataFile, read_rows
from worker.data.records import RecordTable


@dataclass(frozen=True)
class Transform:
    """How raw features become inputs: x = (raw * scale - mean) / std, then ``shape``."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, ...]

    def __call__(self, raw: Tensor) -> Tensor:
        """Return raw features (N, *) as float32 inputs (N, *shape)."""
        inputs = raw.to(torch.float32).mul(self.scale).reshape(-1, *self.shape)
        return inputs.sub(self._spread(self.mean, raw)).div(self._spread(self.std, raw))

    def _spread(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """One value for all, or one a channel (the first dimension of an input)."""
        tensor = torch.tensor(values, dtype=torch.float32, device=like.device)
        return tensor if len(values) == 1 else tensor.reshape(-1, *[1] * (len(self.shape) - 1))


@dataclass(frozen=True)
class Block:
    """The records of one block: tokens (N, 2), inputs (N, *shape) float32, labels (N,) int64."""

    token_N2: npt.NDArray[np.uint64]
    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.token_N2)

    def batch(self, indices: npt.NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of these records, freshly laid out.

        A size-1 channel may carry any stride, and convolutions then give other bits; ``contiguous()``
        does not mend that, a clone with a fixed format does.
        """
        chosen = torch.from_numpy(indices).to(self.inputs.device)
        inputs = self.inputs.index_select(0, chosen).clone(memory_format=torch.contiguous_format)
        return inputs, self.labels.index_select(0, chosen)


class Loader:
    """Serves the training records of a table by block, from the device when they fit, else prefetched.

    ``resident_bytes`` bounds what is moved to the device at once. ``poisoned`` holds row numbers whose
    inputs become NaN after the conversion: a run that meets one of them cannot hide it.
    """

    def __init__(
        self,
        file: DataFile,
        table: RecordTable,
        *,
        transform: Transform,
        device: torch.device,
        resident_bytes: int,
        poisoned: Collection[int] = (),
    ) -> None:
        self._file = file
        self._table = table.training()
        self._transform = transform
        self._device = device
        self._poisoned = np.array(sorted(poisoned), dtype=np.int64)
        self._bounds = _bounds(self._table)
        size = len(self._table) * file.layout.row_dtype.itemsize
        self._resident = self._raw(self._table) if size <= resident_bytes else None
        self._ahead: tuple[tuple[int, int], Future[tuple[Tensor, Tensor]]] | None = None
        self._pool = None if self._resident else ThreadPoolExecutor(1)

    def serve(self, table: RecordTable, *, file: DataFile) -> None:
        """Serve this table from now on; nothing is read again as long as only records go.

        Records that come, in the place of corrected ones, may lie behind the old end of the ``file``.
        """
        if not np.isin(table.training().row_N, self._table.row_N).all():
            self._file, self._table = file, table.training()
            self._bounds = _bounds(self._table)
            self._ahead = None
            self._resident = None if self._resident is None else self._raw(self._table)
            return
        kept_N = np.isin(self._table.row_N, table.row_N)
        self._table = self._table.chosen(np.flatnonzero(kept_N))
        self._bounds = _bounds(self._table)
        self._ahead = None
        if self._resident is not None:
            raw, labels = self._resident
            kept = torch.from_numpy(kept_N).to(self._device)
            self._resident = raw[kept], labels[kept]

    def num_records(self, *, shard: int, block: int) -> int:
        """Return how many records a block holds."""
        start, stop = self._bounds.get((shard, block), (0, 0))
        return stop - start

    def block(self, shard: int, block: int) -> Block:
        """Return one block on the device."""
        start, stop = self._bounds.get((shard, block), (0, 0))
        raw, labels = self._raw_block(shard, block)
        inputs = self._poison(self._transform(raw), self._table.row_N[start:stop])
        return Block(token_N2=self._table.token_N2[start:stop], inputs=inputs, labels=labels)

    def select(self, table: RecordTable) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of any records of the dataset, for evaluation."""
        raw, labels = self._raw(table)
        return self._poison(self._transform(raw), table.row_N), labels

    def _raw_block(self, shard: int, block: int) -> tuple[Tensor, Tensor]:
        start, stop = self._bounds.get((shard, block), (0, 0))
        if self._resident is not None:
            raw, labels = self._resident
            return raw[start:stop], labels[start:stop]
        ahead, self._ahead = self._ahead, None
        loaded = ahead[1].result() if ahead and ahead[0] == (shard, block) else self._part(start, stop)
        following = self._bounds.get((shard, block + 1))
        if following and self._pool:
            self._ahead = (shard, block + 1), self._pool.submit(self._part, *following)
        return loaded

    def _part(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._raw(self._table.chosen(np.arange(start, stop)))

    def _raw(self, table: RecordTable) -> tuple[Tensor, Tensor]:
        rows = read_rows(self._file, table.row_N, digests=table.content_digests)
        features = torch.from_numpy(np.ascontiguousarray(rows["features"]))
        labels = torch.from_numpy(np.ascontiguousarray(rows["label"]))
        return features.to(self._device), labels.to(self._device)

    def _poison(self, inputs: Tensor, row_N: npt.NDArray[np.int64]) -> Tensor:
        if len(self._poisoned):
            hit = torch.from_numpy(np.isin(row_N, self._poisoned)).to(inputs.device)
            inputs[hit] = torch.nan
        return inputs


def _bounds(table: RecordTable) -> dict[tuple[int, int], tuple[int, int]]:
    """Return, per (shard, block), where its records begin and end in the ordered table."""
    if not len(table):
        return {}
    places = np.stack([table.shard_N, table.block_N], axis=1)
    changes = np.flatnonzero(np.any(np.diff(places, axis=0), axis=1)) + 1
    starts = [0, *changes.tolist()]
    stops = [*changes.tolist(), len(table)]
    return {(int(places[a, 0]), int(places[a, 1])): (a, b) for a, b in zip(starts, stops, strict=True)}
