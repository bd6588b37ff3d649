"""Reads a numpy `.npz` archive: arrays `features`, `labels` (or `label`) and the optional columns.

Promises that nothing in the archive is executed: pickled arrays are refused. Never follows a path inside it.
"""

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from worker.data.sources.columns import RawColumns, assemble
from worker.data.sources.files import foreign_errors, regular_file
from worker.data.sources.options import Role, SourceOptions, locate_columns
from worker.data.sources.table import SourceRefused, SourceTable

# What np.load and zipfile raise for damaged, encrypted or absurdly large members.
FOREIGN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, MemoryError)


def read_npz(source: str, *, options: SourceOptions) -> SourceTable:
    """Features keep their dtype, shape (num_records, *shape)."""
    path = regular_file(Path(source))
    with foreign_errors(path, errors=FOREIGN):
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("not a complete .npz file")
        archive = np.load(path, allow_pickle=False)
    with archive:
        raw = _columns(archive, options=options, place=source)
    return assemble(raw, place=source, records_per_subject=options.records_per_subject)


def _columns(archive: NpzFile, *, options: SourceOptions, place: str) -> RawColumns:
    available = list(archive.files)
    features = _features_name(options, available=available, place=place)
    options = _with_label(options, available=available, place=place)
    found = locate_columns(options, available=available, place=place)
    arrays = {role: _array(archive, name, place=place) for role, name in found.items()}
    return RawColumns(
        features=_array(archive, features, place=place),
        labels=arrays[Role.LABEL],
        record_ids=arrays.get(Role.RECORD),
        subject_ids=arrays.get(Role.SUBJECT),
        split=arrays.get(Role.SPLIT),
        spread=arrays.get(Role.SPREAD),
        likelihood=arrays.get(Role.LIKELIHOOD),
    )


def _features_name(options: SourceOptions, *, available: list[str], place: str) -> str:
    name, *others = options.features_columns or ("features",)
    if others:
        raise SourceRefused(f"{place}: features are one array in an .npz file, {1 + len(others)} are named")
    if name not in available:
        raise SourceRefused(f"{place}: no array {name!r}; there is: {', '.join(available) or 'nothing'}")
    return name


def _with_label(options: SourceOptions, *, available: list[str], place: str) -> SourceOptions:
    """`labels` is the usual name of the array; `label` that of the column elsewhere."""
    if options.label_column is not None or "labels" not in available:
        return options
    if "label" in available:
        raise SourceRefused(f"{place}: has both 'labels' and 'label', name one as label_column")
    return replace(options, label_column="labels")


def _array(archive: NpzFile, name: str, *, place: str) -> np.ndarray:
    with foreign_errors(f"{place}: array {name!r}", errors=FOREIGN):
        array = archive[name]
    # A member that is no .npy file comes back as plain bytes.
    if not isinstance(array, np.ndarray):
        raise SourceRefused(f"{place}: {name!r} is not a numpy array")
    return array
