"""Reads CIFAR-10 as PNG sheets in a folder: each row of pixels in a sheet is one image of 32 x 32.

Layout: `data_batch_1.png`, `data_batch_2.png`, ... in 8-bit RGB, 1024 wide, with one JSON list of the labels
of all of them in `train_labels.json`; and, held out, `test_batch.png` with `test_labels.json`. The npm
package of these files spells `lables`, so both spellings are read.
Promises that sheets, rows and labels agree before a pixel is decoded, and that checksums hold.
Never converts a colour, never guesses at a sheet that is missing.
"""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from worker.data.sources.columns import RawColumns, assemble
from worker.data.sources.files import existing, foreign_errors, regular_file
from worker.data.sources.options import SourceOptions, refuse_columns
from worker.data.sources.subjects import read_subjects
from worker.data.sources.table import SourceRefused, SourceTable

SIDE, NUM_CHANNELS, NUM_CLASSES = 32, 3, 10
PNG_MAGIC = b"\x89PNG"
TEST_SHEET = "test_batch.png"
SHEET_NAME = re.compile(r"data_batch_(?P<index>[1-9]\d{0,3})\.png")
# What Pillow raises for damaged or absurdly large files, besides OSError.
FOREIGN = (SyntaxError, ValueError, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Part:
    """Sheets with as many rows as there are labels."""

    name: str
    heights: dict[Path, int]
    labels: npt.NDArray[np.int64]

    @property
    def record_ids(self) -> list[str]:
        """`train-0`, ... over the sheets in the order of their numbers."""
        return [f"{self.name}-{row}" for row in range(len(self.labels))]


def read_sheets(source: str, *, options: SourceOptions) -> SourceTable:
    """Features uint8 (num_records, 3, 32, 32), channels red, green, blue."""
    refuse_columns(options, place=source)
    folder = existing(Path(source))
    if not folder.is_dir():
        raise SourceRefused(f"{source}: is one file, the folder of all sheets is needed")
    train = _part(_training_sheets(folder), name="train")
    tests = _test_sheets(folder)
    parts = [train, _part(tests, name="test")] if tests else [train]
    record_ids = [record_id for part in parts for record_id in part.record_ids]
    raw = RawColumns(
        features=_features(parts),
        labels=np.concatenate([part.labels for part in parts]),
        record_ids=record_ids,
        subject_ids=read_subjects(options.subjects_path, record_ids=record_ids),
        split=[part.name for part in parts for _ in part.labels] if tests else None,
    )
    return assemble(raw, place=source, records_per_subject=options.records_per_subject)


def is_sheet_name(name: str) -> bool:
    """Whether a file name follows `data_batch_N.png`."""
    return SHEET_NAME.fullmatch(name) is not None


def _training_sheets(folder: Path) -> list[Path]:
    with foreign_errors(folder):
        found = [SHEET_NAME.fullmatch(path.name) for path in folder.iterdir()]
    num_sheets = max((int(match["index"]) for match in found if match), default=1)
    return [regular_file(folder / f"data_batch_{index}.png") for index in range(1, num_sheets + 1)]


def _test_sheets(folder: Path) -> list[Path]:
    """The test sheet; none when neither it nor its labels are there."""
    is_meant = (folder / TEST_SHEET).exists() or _labels_path(folder, name="test").exists()
    return [regular_file(folder / TEST_SHEET)] if is_meant else []


def _part(sheets: list[Path], *, name: str) -> Part:
    heights = {sheet: _height(sheet) for sheet in sheets}
    path = _labels_path(sheets[0].parent, name=name)
    labels = _labels(path)
    num_rows = sum(heights.values())
    if len(labels) != num_rows:
        raise SourceRefused(f"{path}: {len(labels)} labels for {num_rows} rows in {_listed(sheets)}")
    return Part(name=name, heights=heights, labels=labels)


def _height(sheet: Path) -> int:
    """The number of images, from the header; the rest of the file is compared with its checksums."""
    with _opened(sheet) as image:
        width, height, mode = image.width, image.height, image.mode
        image.verify()
    if width != SIDE * SIDE:
        raise SourceRefused(f"{sheet}: is {width} wide, rows of {SIDE * SIDE} pixels are needed")
    if mode != "RGB":
        raise SourceRefused(f"{sheet}: its pixels are {mode}, 8-bit RGB is needed")
    return height


@contextmanager
def _opened(sheet: Path) -> Iterator[Image.Image]:
    with foreign_errors(sheet, errors=FOREIGN):
        try:
            image = Image.open(sheet, formats=("PNG",))
        except UnidentifiedImageError as error:
            raise ValueError("not a PNG file") from error  # its own words would name the path again
        with image:
            yield image


def _labels_path(folder: Path, *, name: str) -> Path:
    usual, of_the_package = folder / f"{name}_labels.json", folder / f"{name}_lables.json"
    return of_the_package if of_the_package.exists() else usual


def _labels(path: Path) -> npt.NDArray[np.int64]:
    regular_file(path)
    with foreign_errors(path, errors=(ValueError, RecursionError)):
        labels = json.loads(path.read_bytes())
    if not isinstance(labels, list):
        raise SourceRefused(f"{path}: a JSON list of labels is needed")
    for row, label in enumerate(labels):
        # A boolean is an integer to Python, and no label.
        if type(label) is not int or not 0 <= label < NUM_CLASSES:
            wanted = f"a whole number from 0 to {NUM_CLASSES - 1}"
            raise SourceRefused(f"{path}: label in row {row} is {label!r:.40}, {wanted} is needed")
    return np.array(labels, dtype=np.int64)


def _features(parts: list[Part]) -> npt.NDArray[np.uint8]:
    num_records = sum(len(part.labels) for part in parts)
    features = np.empty((num_records, NUM_CHANNELS, SIDE, SIDE), dtype=np.uint8)
    start = 0
    for sheet, height in ((sheet, height) for part in parts for sheet, height in part.heights.items()):
        with _opened(sheet) as image:
            pixels = np.asarray(image)
        images = pixels.reshape(height, SIDE, SIDE, NUM_CHANNELS)
        features[start : start + height] = images.transpose(0, 3, 1, 2)
        start += height
    return features


def _listed(sheets: list[Path]) -> str:
    return ", ".join(sheet.name for sheet in sheets)
