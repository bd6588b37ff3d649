"""Labels of records and copies with changes, from the data files (``app.services.contents``).

A copy is appended: a row that jobs may be reading never changes under them. No arrays here: the process that
seals imports none.
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from app.domain.changes import Changes
from app.domain.terms import DatasetId, JsonObject
from worker.data.erasure import data_path, write_all

# A label follows the features as a 64-bit integer.
_LABEL = "q"
_LABEL_BYTES = 8
_CODES = {
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class FileContents:
    """The data files under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def labelled(self, dataset_id: DatasetId, *, layout: JsonObject, label: int) -> Sequence[int]:
        """Return the rows with this label, in order; erased ones read as label 0.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a whole number of rows.
        """
        path, form = data_path(self._folder, dataset_id), _Form.of(layout)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if len(data) % form.row_bytes:
                raise ValueError(f"{path.name} of {dataset_id} is not a whole number of rows")
            labels = struct.iter_unpack(f"<{form.feature_bytes}x{_LABEL}", data)
            return [row for row, (found,) in enumerate(labels) if found == label]

    def write_changed(
        self,
        dataset_id: DatasetId,
        *,
        layout: JsonObject,
        row: int,
        digest: bytes,
        changes: Changes,
        at: int,
    ) -> bytes:
        """Write a copy of ``row`` with these changes as row ``at``, sync, and return its content digest.

        What lies at ``at`` already is a copy whose sealing never ended: it is written over.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: the row is not what was imported, or ``at`` lies beyond the end; nothing was written.
        """
        path, form = data_path(self._folder, dataset_id), _Form.of(layout)
        descriptor = os.open(path, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            if at * form.row_bytes > size:
                raise ValueError(f"{path.name} of {dataset_id} ends before row {at}, which would leave a gap")
            found = os.pread(descriptor, form.row_bytes, row * form.row_bytes)
            if hashlib.sha256(found).digest() != digest:
                raise ValueError(f"row {row} of {path.name} of {dataset_id} is not what was imported")
            changed = form.changed(found, changes, layout=layout)
            # First, in one step: whoever is killed in the middle leaves a whole number of rows.
            os.ftruncate(descriptor, max((at + 1) * form.row_bytes, size))
            write_all(descriptor, changed, at=at * form.row_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return hashlib.sha256(changed).digest()


@dataclass(frozen=True)
class _Form:
    """How one row is laid out: ``num_features`` numbers of one type (little endian), then the label."""

    code: str
    num_features: int

    @classmethod
    def of(cls, layout: JsonObject) -> "_Form":
        shape, dtype = layout["shape"], str(layout["dtype"])
        assert isinstance(shape, list)
        return cls(code=_CODES[dtype[1:]], num_features=prod(int(str(size)) for size in shape))

    @property
    def feature_bytes(self) -> int:
        return self.num_features * struct.calcsize(self.code)

    @property
    def row_bytes(self) -> int:
        return self.feature_bytes + _LABEL_BYTES

    def changed(self, row: bytes, changes: Changes, *, layout: JsonObject) -> bytes:
        copy = bytearray(row)
        if changes.label is not None:
            struct.pack_into(f"<{_LABEL}", copy, self.feature_bytes, changes.label)
        for index, value in changes.places(layout).items():
            number = value if self.code in "efd" else int(value)
            struct.pack_into(f"<{self.code}", copy, index * struct.calcsize(self.code), number)
        return bytes(copy)
