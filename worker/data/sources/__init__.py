"""Readers of the sources of an import: one file a format, one plain dict that names them.

Promises one frozen, checked `SourceTable` or one `SourceRefused` that names the place.
Never writes, never keeps anything between calls, never sees a database, a tensor or a key.
"""

from pathlib import Path
from typing import Protocol

from worker.data.sources.digits import NAME as DIGITS
from worker.data.sources.digits import read_digits
from worker.data.sources.files import existing, foreign_errors, regular_file
from worker.data.sources.idx import GZIP_MAGIC, is_images_name, read_idx
from worker.data.sources.npz import read_npz
from worker.data.sources.options import SourceOptions
from worker.data.sources.parquet import parquet_files, read_parquet
from worker.data.sources.sheets import PNG_MAGIC, is_sheet_name, read_sheets
from worker.data.sources.table import SourceRefused, SourceTable

__all__ = [
    "READERS",
    "Reader",
    "SourceOptions",
    "SourceRefused",
    "SourceTable",
    "detect_format",
    "read_source",
]


class Reader(Protocol):
    """Reads one format; raises SourceRefused."""

    def __call__(self, source: str, *, options: SourceOptions) -> SourceTable:
        """`source` is a path, or the name of a built-in source."""
        ...


READERS: dict[str, Reader] = {
    "parquet": read_parquet,
    "npz": read_npz,
    "idx": read_idx,
    "sheets": read_sheets,
    DIGITS: read_digits,
}

BEGINNINGS = {
    b"PAR1": "parquet",
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",
    GZIP_MAGIC: "idx",
    b"\0\0": "idx",
    PNG_MAGIC: "sheets",
}
SUFFIXES = {".parquet": "parquet", ".npz": "npz", ".gz": "idx"}


def read_source(
    source: str, *, format: str | None = None, options: SourceOptions | None = None
) -> SourceTable:
    """The records of `source`, a path or `digits`. Without a format it is told by content."""
    options = options or SourceOptions()
    name = detect_format(source) if format is None else format
    if name not in READERS:
        raise SourceRefused(f"{source}: no format {name!r}; there is: {', '.join(READERS)}")
    if options.labels_path is not None and name != "idx":
        raise SourceRefused(f"{source}: labels_path is for IDX files, this is {name}")
    if options.subjects_path is not None and name != "sheets":
        raise SourceRefused(f"{source}: subjects_path is for PNG sheets, this is {name}")
    return READERS[name](source, options=options)


def detect_format(path: str) -> str:
    """A key of READERS. `digits` is the built-in source; a file of that name is `./digits`."""
    if path == DIGITS:
        return DIGITS
    place = existing(Path(path))
    return _format_of_folder(place) if place.is_dir() else _format_of_file(place)


def _format_of_folder(folder: Path) -> str:
    if parquet_files(folder):
        return "parquet"
    with foreign_errors(folder):
        names = [path.name for path in folder.iterdir()]
    if any(is_images_name(name) for name in names):
        return "idx"
    if any(is_sheet_name(name) for name in names):
        return "sheets"
    raise SourceRefused(f"{folder}: holds no .parquet files, *-images-idx3-ubyte or data_batch_*.png")


def _format_of_file(file: Path) -> str:
    """By content; by name only where content says nothing, so that the reader can say what is wrong."""
    with foreign_errors(file), regular_file(file).open("rb") as handle:
        beginning = handle.read(4)
    for magic, name in BEGINNINGS.items():
        if beginning.startswith(magic):
            return name
    if is_images_name(file.name):
        return "idx"
    if file.suffix in SUFFIXES:
        return SUFFIXES[file.suffix]
    raise SourceRefused(f"{file}: not a format that is read here: {', '.join(READERS)}")
