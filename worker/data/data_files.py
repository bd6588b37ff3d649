"""Data files: the records of a dataset as fixed-length rows in import order, independent of any plan.

A row is the features in their raw dtype, then the label as a 64-bit integer. The file is memory-mapped and
never changes, except that erasing a record zeroes its row in place, and that corrected ones are appended.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.domain.terms import JsonObject
from worker.data.erasure import DATA_FILE, data_path

_CHUNK_ROWS = 4_096


class DataCorrupt(ValueError):
    """The stored bytes of a record are not those that were imported (erased, or a fault of the disk)."""


@dataclass(frozen=True)
class Layout:
    """How one row is laid out. ``shape`` is that of one record's features.

    ``feature_names`` is empty where the source had no names.
    """

    shape: tuple[int, ...]
    dtype: str
    num_classes: int
    feature_names: tuple[str, ...] = ()

    @property
    def row_dtype(self) -> np.dtype[np.void]:
        """The packed structure of a row."""
        return np.dtype([("features", self.dtype, self.shape), ("label", "<i8")])

    def to_json(self) -> JsonObject:
        """Return it as the dataset's row keeps it."""
        named: JsonObject = {"feature_names": list(self.feature_names)} if self.feature_names else {}
        return {"shape": list(self.shape), "dtype": self.dtype, "num_classes": self.num_classes, **named}

    @classmethod
    def from_json(cls, values: JsonObject) -> "Layout":
        """Return what ``to_json`` gave."""
        shape = tuple(int(n) for n in values["shape"])  # type: ignore[union-attr, arg-type]
        names = tuple(str(name) for name in values.get("feature_names", []))  # type: ignore[union-attr]
        num_classes = int(values["num_classes"])  # type: ignore[arg-type]
        return cls(shape=shape, dtype=str(values["dtype"]), num_classes=num_classes, feature_names=names)


@dataclass(frozen=True)
class DataFile:
    """An open data file; ``rows`` is a read-only memory map of (num_records,) structures."""

    layout: Layout
    rows: npt.NDArray[np.void]

    def row_bytes(self, row: int) -> bytes:
        """Return the bytes of one record as they are stored."""
        return bytes(self.rows[row].tobytes())


def open_data_file(folder: Path, dataset_id: str, *, layout: Layout) -> DataFile:
    """Map the records of a dataset.

    Raises:
        DataCorrupt: the file is missing or is not a whole number of rows.
    """
    path = data_path(folder, dataset_id)
    try:
        rows = np.memmap(path, dtype=layout.row_dtype, mode="r")
    except (OSError, ValueError) as error:
        raise DataCorrupt(f"the data file of dataset {dataset_id} cannot be read: {error}") from error
    return DataFile(layout=layout, rows=rows)


def write_data_file(
    folder: Path,
    dataset_id: str,
    *,
    layout: Layout,
    features: npt.NDArray[np.generic],
    labels: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.intp],
) -> list[bytes]:
    """Write the chosen records in order, sync, and return their content digests.

    The caller removes the folder if what follows fails: until its row is committed nothing refers to it.
    """
    path = data_path(folder, dataset_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "row_bytes").write_text(str(layout.row_dtype.itemsize))
    digests: list[bytes] = []
    with path.open("wb") as file:
        for start in range(0, len(chosen), _CHUNK_ROWS):
            part = chosen[start : start + _CHUNK_ROWS]
            rows = np.zeros(len(part), dtype=layout.row_dtype)
            rows["features"], rows["label"] = features[part], labels[part]
            digests += row_digests(rows)
            file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return digests


def row_digests(rows: npt.NDArray[np.void]) -> list[bytes]:
    """Return the SHA-256 of each row's bytes."""
    width = rows.dtype.itemsize
    view = memoryview(rows.tobytes())
    return [hashlib.sha256(view[at : at + width]).digest() for at in range(0, len(view), width)]


def read_rows(
    file: DataFile, rows: npt.NDArray[np.int64], *, digests: Sequence[bytes]
) -> npt.NDArray[np.void]:
    """Return copies of these rows after comparing each with its content digest.

    Raises:
        DataCorrupt: a row was erased or altered; its number is named.
    """
    found = file.rows[rows]
    for row, digest, wanted in zip(rows, row_digests(found), digests, strict=True):
        if digest != wanted:
            raise DataCorrupt(f"row {row} of {DATA_FILE} is not what was imported")
    return found
