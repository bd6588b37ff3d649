"""From columns as a source stores them to a checked table.

Promises canonical ids (text as it is, integers without a decimal point), subjects for sources that name
none, and a yes or no from every split value. Never opens a file.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.data.sources.table import SourceRefused, SourceTable, checked

# Text arrives as a list, everything else as an array.
Column = np.ndarray | list[str]

IS_HELD_OUT = {"train": False, "test": True, "held_out": True, "validation": True}


@dataclass(frozen=True, eq=False)
class RawColumns:
    """One source's columns, unchecked; each optional column is None when the source lacks it."""

    features: np.ndarray
    labels: Column
    record_ids: Column | None = None
    subject_ids: Column | None = None
    split: Column | None = None
    spread: Column | None = None
    likelihood: Column | None = None
    feature_names: tuple[str, ...] = ()


def assemble(raw: RawColumns, *, place: str, records_per_subject: int | None = None) -> SourceTable:
    """The checked table; `records_per_subject` makes synthetic subjects where the source names none."""
    if raw.subject_ids is not None and records_per_subject is not None:
        raise SourceRefused(f"{place}: has a subject column, records_per_subject is for sources without one")
    num_records = len(np.atleast_1d(raw.features))
    record_ids = _ids(raw.record_ids, name="record_id", place=place)
    if record_ids is None:
        record_ids = [str(row) for row in range(num_records)]
    subject_ids = _ids(raw.subject_ids, name="subject_id", place=place)
    if subject_ids is None:
        subject_ids = _default_subjects(record_ids, records_per_subject=records_per_subject)
    table = SourceTable(
        features=raw.features,
        labels=np.asarray(raw.labels),
        record_ids=record_ids,
        subject_ids=subject_ids,
        held_out=_held_out(raw.split, place=place),
        spread=None if raw.spread is None else np.asarray(raw.spread),
        likelihood=None if raw.likelihood is None else np.asarray(raw.likelihood),
        feature_names=raw.feature_names,
    )
    return checked(table, place=place)


def _default_subjects(record_ids: list[str], *, records_per_subject: int | None) -> list[str]:
    if records_per_subject is None:
        return list(record_ids)
    return [f"synthetic-{row // records_per_subject:06d}" for row in range(len(record_ids))]


def _held_out(split: Column | None, *, place: str) -> npt.NDArray[np.bool_] | None:
    words = _ids(split, name="split", place=place)
    if words is None:
        return None
    for row, word in enumerate(words):
        if word not in IS_HELD_OUT:
            known = ", ".join(IS_HELD_OUT)
            raise SourceRefused(f"{place}: split in row {row} is {word!r}, not one of: {known}")
    return np.array([IS_HELD_OUT[word] for word in words], dtype=np.bool_)


def _ids(column: Column | None, *, name: str, place: str) -> list[str] | None:
    """Canonical text. Floats are refused: 17.0 and 17 would be two subjects at the two doors."""
    if column is None or isinstance(column, list):
        return column
    if column.ndim != 1:
        raise SourceRefused(f"{place}: {name} has shape {column.shape}, one value a record is needed")
    match column.dtype.kind:
        case "i" | "u" | "U":
            return [str(value) for value in column.tolist()]
        case "S":
            values = enumerate(column.tolist())
            return [_decoded(value, name=name, row=row, place=place) for row, value in values]
        case _:
            raise SourceRefused(f"{place}: {name} of dtype {column.dtype}, text or integers are needed")


def _decoded(value: bytes, *, name: str, row: int, place: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise SourceRefused(f"{place}: {name} in row {row} is not UTF-8: {value!r}") from error
