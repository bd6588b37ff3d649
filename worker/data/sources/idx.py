"""Reads IDX files, the format of MNIST, gzipped or not: a pair of files, or a folder with train and t10k.

Layout: two zero bytes, one for the element type, one for the number of dimensions, each dimension as a
big-endian uint32, then the elements, big endian (http://yann.lecun.com/exdb/mnist).
Promises that a file is exactly as long as its header says. Uncompressed bytes stay a memory map.
Never trusts a header: memory is taken as bytes arrive.
"""

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from worker.data.sources.columns import RawColumns, assemble
from worker.data.sources.files import existing, foreign_errors, regular_file
from worker.data.sources.options import SourceOptions, refuse_columns
from worker.data.sources.table import SourceRefused, SourceTable

GZIP_MAGIC = b"\x1f\x8b"
ELEMENT_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 32  # one byte could say 255, which no array has
BYTES_PER_READ = 1 << 20
# `.idx3` instead of `-idx3` is how some mirrors unpack the same files.
IMAGES_NAME = re.compile(r"(?P<part>.+)-images(?P<mark>[-.])idx\d-ubyte(?:\.gz)?")
FOREIGN = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an IDX file say."""

    dtype: np.dtype  # big endian
    shape: tuple[int, ...]

    @property
    def num_header_bytes(self) -> int:
        """Where the elements begin."""
        return 4 + 4 * len(self.shape)

    @property
    def num_data_bytes(self) -> int:
        """What must follow the header, exactly."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_idx(source: str, *, options: SourceOptions) -> SourceTable:
    """Images of shape (num_records, 1, H, W) from idx3, (num_records, C, H, W) from idx4."""
    refuse_columns(options, place=source)
    path = existing(Path(source))
    raw = _folder(path, options=options) if path.is_dir() else _pair(path, labels_path=options.labels_path)
    return assemble(raw, place=source, records_per_subject=options.records_per_subject)


def read_array(path: Path) -> np.ndarray:
    """The array of one IDX file, any rank, native byte order; a read-only memory map when it is so stored."""
    regular_file(path)
    with foreign_errors(path, errors=FOREIGN):
        with path.open("rb") as file:
            is_gzip = file.read(2) == GZIP_MAGIC
        array = _gzipped(path) if is_gzip else _mapped(path)
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_images_name(name: str) -> bool:
    """Whether a file name follows `*-images-idx3-ubyte[.gz]`."""
    return IMAGES_NAME.fullmatch(name) is not None


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header = _header(file, path=path)
    num_bytes = path.stat().st_size - header.num_header_bytes
    _check_length(num_bytes, header=header, path=path)
    return np.memmap(path, dtype=header.dtype, mode="r", offset=header.num_header_bytes, shape=header.shape)


def _gzipped(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        header = _header(file, path=path)
        content = bytearray()
        # One byte more than promised is enough to know that more follows, however much that is.
        while len(content) <= header.num_data_bytes:
            part = file.read(min(BYTES_PER_READ, header.num_data_bytes + 1 - len(content)))
            if not part:
                break
            content += part
    _check_length(len(content), header=header, path=path)
    return np.frombuffer(content, dtype=header.dtype).reshape(header.shape)


def _header(file: BinaryIO | gzip.GzipFile, *, path: Path) -> Header:
    magic = file.read(4)
    if (
        len(magic) < 4
        or magic[:2] != b"\0\0"
        or magic[2] not in ELEMENT_DTYPES
        or not 1 <= magic[3] <= MAX_DIMENSIONS
    ):
        raise SourceRefused(f"{path}: not an IDX file, it begins with {magic.hex(' ') or 'nothing'}")
    num_dimensions = magic[3]
    dimensions = file.read(4 * num_dimensions)
    if len(dimensions) < 4 * num_dimensions:
        raise SourceRefused(f"{path}: truncated within the IDX header")
    shape = tuple(int(size) for size in np.frombuffer(dimensions, dtype=">u4"))
    if 0 in shape:
        raise SourceRefused(f"{path}: holds no data, its shape is {shape}")
    return Header(np.dtype(ELEMENT_DTYPES[magic[2]]), shape)


def _check_length(num_bytes: int, *, header: Header, path: Path) -> None:
    expected = header.num_data_bytes
    if num_bytes < expected:
        raise SourceRefused(f"{path}: truncated, {num_bytes} of {expected} bytes for {header.shape}")
    if num_bytes > expected:
        raise SourceRefused(f"{path}: trailing bytes after the {expected} for {header.shape}")


def _pair(images_path: Path, *, labels_path: Path | None = None) -> RawColumns:
    """Without `labels_path`, labels lie beside the images."""
    images = read_array(images_path)
    labels_path = labels_path or _labels_beside(images_path)
    labels = read_array(labels_path)
    if images.ndim == 1:
        raise SourceRefused(f"{images_path}: has one dimension, as labels have; images are needed")
    if labels.ndim != 1:
        raise SourceRefused(f"{labels_path}: has {labels.ndim} dimensions, labels have one")
    if len(images) != len(labels):
        counts = f"{len(labels)} labels for {len(images)} images"
        raise SourceRefused(f"{labels_path}: {counts} in {images_path.name}")
    if images.ndim == 3:
        images = images[:, np.newaxis]
    return RawColumns(features=images, labels=labels)


def _labels_beside(images_path: Path) -> Path:
    match = IMAGES_NAME.fullmatch(images_path.name)
    if match is None:
        raise SourceRefused(f"{images_path}: not named *-images-idx3-ubyte, so labels_path is needed")
    return _plain_or_gzipped(images_path.parent, f"{match['part']}-labels{match['mark']}idx1-ubyte")


def _plain_or_gzipped(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise SourceRefused(f"{folder}: no {name}, gzipped or not")


def _folder(folder: Path, *, options: SourceOptions) -> RawColumns:
    if options.labels_path is not None:
        raise SourceRefused(f"{folder}: labels_path is for a single images file, not for a folder")
    images_path = _images_in(folder, part="train")
    if images_path is None:
        raise SourceRefused(f"{folder}: no train-images-idx3-ubyte, gzipped or not")
    train = _pair(images_path)
    record_ids = [f"train-{row}" for row in range(len(train.features))]
    test_path = _images_in(folder, part="t10k")
    if test_path is None:
        return RawColumns(features=train.features, labels=train.labels, record_ids=record_ids)
    test = _pair(test_path)
    return _joined(train, test, record_ids=record_ids, place=str(test_path))


def _joined(train: RawColumns, test: RawColumns, *, record_ids: list[str], place: str) -> RawColumns:
    for name, ours, theirs in (
        ("shape", test.features.shape[1:], train.features.shape[1:]),
        ("dtype", test.features.dtype, train.features.dtype),
    ):
        if ours != theirs:
            raise SourceRefused(f"{place}: images of {name} {ours}, those of train have {theirs}")
    num_test = len(test.features)
    return RawColumns(
        features=np.concatenate([train.features, test.features]),
        labels=np.concatenate([train.labels, test.labels]),
        record_ids=record_ids + [f"t10k-{row}" for row in range(num_test)],
        split=["train"] * len(train.features) + ["test"] * num_test,
    )


def _images_in(folder: Path, *, part: str) -> Path | None:
    """Plain before gzipped: both are there after `gunzip --keep`."""
    with foreign_errors(folder):
        names = sorted(path.name for path in folder.iterdir())
    matches = (IMAGES_NAME.fullmatch(name) for name in names)
    found = [match.string for match in matches if match is not None and match["part"] == part]
    return folder / found[0] if found else None
