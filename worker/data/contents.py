"""Labels of records and copies with changes, from the data files (``app.services.contents``).

A copy is appended: a row that jobs may be reading never changes under them. No arrays here: the process that
seals imports none.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from app.domain.changes import Changes
from app.domain.terms import DatasetId, JsonObject
from app.services.contents import Contents
from worker.data.erasure import data_path, write_all
from worker.data.high_water import raise_mark, read_mark

# A label follows the features as a 64-bit integer.
_LABEL = "q"
_LABEL_BYTES = 8
_CODES = {
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class FileContents(Contents):
    """The data files under one folder; their paths stand in every error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def labelled(self, dataset_id: DatasetId, *, layout: JsonObject, label: int) -> Sequence[int]:
        """Read every row's label, and nothing else of it."""
        path, form = data_path(self._folder, dataset_id), _Form.of(layout)
        with (
            _named(path),
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if len(data) % form.row_bytes:
                raise ValueError(f"{path} is not a whole number of rows")
            labels = struct.iter_unpack(f"<{form.feature_bytes}x{_LABEL}", data)
            return [row for row, (found,) in enumerate(labels) if found == label]

    def require_usable(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> None:
        """Open the file for writing and count its rows."""
        form = _Form.of(layout)
        with self._opened(dataset_id) as (path, descriptor):
            num_found, num_over = divmod(os.fstat(descriptor).st_size, form.row_bytes)
        if num_over:
            raise ValueError(f"{path} is not a whole number of rows")
        if num_found < num_rows:
            raise ValueError(f"{path} ends before row {num_rows}")

    @contextmanager
    def alone(self, dataset_id: DatasetId) -> Iterator[None]:
        """Hold the file's lock; it goes with the process that holds it."""
        with self._opened(dataset_id) as (_, descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def num_committed(self, dataset_id: DatasetId) -> int:
        """Read the mark beside the file."""
        return read_mark(data_path(self._folder, dataset_id).parent)

    def note_committed(self, dataset_id: DatasetId, *, num_rows: int) -> None:
        """Put a new mark in the place of a lower one, in one step."""
        with self.alone(dataset_id):
            raise_mark(data_path(self._folder, dataset_id).parent, num_rows=num_rows)

    def has_copies(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> bool:
        """Read what lies behind them, which is a row or nothing."""
        path = data_path(self._folder, dataset_id)
        if not path.exists():
            return False
        with _named(path), path.open("rb") as file:
            file.seek(num_rows * _Form.of(layout).row_bytes)
            return any(file.read())

    def erase_copies(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> None:
        """Zero them in place: whoever has the file mapped may read up to its end."""
        start = num_rows * _Form.of(layout).row_bytes
        with self._opened(dataset_id) as (_, descriptor):
            write_all(descriptor, bytes(max(0, os.fstat(descriptor).st_size - start)), at=start)
            os.fsync(descriptor)

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
        """Append a copy, or write it over one whose sealing never ended; refused, nothing is written."""
        form = _Form.of(layout)
        with self._opened(dataset_id) as (path, descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if at * form.row_bytes > size:
                raise ValueError(f"{path} ends before row {at}, which would leave a gap")
            found = os.pread(descriptor, form.row_bytes, row * form.row_bytes)
            if hashlib.sha256(found).digest() != digest:
                # Not which one: what is said here is kept, and the record may be forgotten later.
                raise ValueError(f"a record in {path} is not what was imported")
            changed = form.changed(found, changes, layout=layout)
            # First, in one step: whoever is killed in the middle leaves a whole number of rows.
            os.ftruncate(descriptor, max((at + 1) * form.row_bytes, size))
            write_all(descriptor, changed, at=at * form.row_bytes)
            os.fsync(descriptor)
        return hashlib.sha256(changed).digest()

    @contextmanager
    def _opened(self, dataset_id: DatasetId) -> Iterator[tuple[Path, int]]:
        path = data_path(self._folder, dataset_id)
        with _named(path):
            descriptor = os.open(path, os.O_RDWR)
            try:
                yield path, descriptor
            finally:
                os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let the path stand in errors that the system gives without one: of reads, writes and syncs."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
