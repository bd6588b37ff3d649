"""Erase records from a data file: zeros in place, then a sync.

In place, because after "new file, rename" an open map still reads the old bytes. Erasing twice is once.
What the disk keeps underneath cannot be reached from here: the receipt says so.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.domain.terms import DatasetId

DATA_FILE = "records.bin"


def data_path(folder: Path, dataset_id: str) -> Path:
    """Return where the records of a dataset lie."""
    return folder / dataset_id / DATA_FILE


class Eraser:
    """Zeroes rows of data files under one folder; row sizes come from the files' own layout notes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, dataset_id: DatasetId, rows: Sequence[int]) -> None:
        """Zero these rows and sync the file."""
        path = data_path(self._folder, dataset_id)
        row_bytes = int((path.parent / "row_bytes").read_text())
        zero_rows(path, rows, row_bytes=row_bytes)


def zero_rows(path: Path, rows: Iterable[int], *, row_bytes: int) -> None:
    """Overwrite rows of a file with zeros and sync it.

    Raises:
        ValueError: a row lies outside the file; nothing was written.
        OSError: not all could be written; who calls again begins anew.
    """
    wanted = list(rows)
    num_rows = path.stat().st_size // row_bytes
    if any(not 0 <= row < num_rows for row in wanted):
        raise ValueError(f"{path.name} has {num_rows} rows, so there is nothing to erase beyond them")
    zeros = bytes(row_bytes)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for row in wanted:
            write_all(descriptor, zeros, at=row * row_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes, *, at: int) -> None:
    """Write on until all is written: a short write is no error, and would leave part of a record behind."""
    left = memoryview(data)
    while left:
        num_written = os.pwrite(descriptor, left, at)
        left, at = left[num_written:], at + num_written
