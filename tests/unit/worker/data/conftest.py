"""Data files on disk with a table of their records."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worker.data.data_files import DataFile, Layout, open_data_file, write_data_file
from worker.data.erasure import data_path
from worker.data.loader import Loader, Transform
from worker.data.records import RecordTable


@dataclass(frozen=True)
class Stored:
    """A data file with its table, and what it was written from."""

    folder: Path
    file: DataFile
    table: RecordTable
    features: np.ndarray
    labels: np.ndarray

    def loader(self, **changes: Any) -> Loader:
        """Return a loader; resident and untransformed unless told otherwise."""
        shape = self.file.layout.shape
        values: dict[str, Any] = {
            "transform": Transform(scale=1.0, mean=(0.0,), std=(1.0,), shape=shape),
            "device": torch.device("cpu"),
            "resident_bytes": 1 << 20,
        }
        return Loader(self.file, self.table, **{**values, **changes})

    def overwrite(self, row: int, data: bytes, *, at: int = 0) -> None:
        """Change bytes of a row behind the loader's back."""
        with data_path(self.folder, "dat").open("r+b") as file:
            file.seek(row * self.file.layout.row_dtype.itemsize + at)
            file.write(data)


def stored_in(
    folder: Path, num: int = 30, *, shape: tuple[int, ...] = (1, 4, 4), dtype: str = "<f4"
) -> Stored:
    """Write noise as a data file: record n in block n % 3, every tenth held out."""
    draw = np.random.default_rng(1)
    features = draw.uniform(0, 100, size=(num, *shape)).astype(dtype)
    labels, rows = draw.integers(0, 9, size=num), np.arange(num)
    layout = Layout(shape=shape, dtype=np.dtype(dtype).str, num_classes=9)
    digests = write_data_file(folder, "dat", layout=layout, features=features, labels=labels, chosen=rows)
    held_out = rows % 10 == 9
    table = RecordTable(
        row_N=rows,
        record_refs=[bytes([n]) * 32 for n in range(num)],
        salts=[bytes(16)] * num,
        content_digests=digests,
        is_held_out_N=held_out,
        shard_N=np.where(held_out, -1, 0),
        block_N=np.where(held_out, -1, rows % 3),
        token_N2=draw.integers(0, 2**64, size=(num, 2), dtype=np.uint64),
    )
    file = open_data_file(folder, "dat", layout=layout)
    return Stored(folder=folder, file=file, table=table, features=features, labels=labels)


Store = Callable[..., Stored]


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """Writes one data file, see ``stored_in``."""
    return partial(stored_in, tmp_path)
