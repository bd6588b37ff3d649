"""What a reader hands over: one frozen table of records, checked.

Promises that a table that passed `checked` holds at least one record, arrays of one length, unique record
ids, finite numeric features and whole labels. Every refusal is one `SourceRefused` that names the place:
file, array, row (counted from 0; over a folder's files in the order of their names) or record_id.
Never reads a file, never normalises a subject id (the importer does), never repairs a value.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

# Bounds what one look for NaN holds in memory when the features are a memory map.
VALUES_PER_LOOK = 1 << 22


class SourceRefused(ValueError):
    """The source cannot be imported; the message names the place."""


@dataclass(frozen=True, eq=False)
class SourceTable:
    """The records of one source, in source order; every array has one entry a record."""

    features: np.ndarray  # (num_records, *shape), raw dtype, C-contiguous, little endian; may be a memmap
    labels: npt.NDArray[np.int64]  # (num_records,), >= 0
    record_ids: list[str]  # unique
    subject_ids: list[str]  # as in the source
    held_out: npt.NDArray[np.bool_] | None = None  # None when the source names no split
    spread: npt.NDArray[np.int64] | None = None  # blocks a subject may use, >= 1, equal within a subject
    likelihood: npt.NDArray[np.float64] | None = None  # of deletion, >= 0, equal within a subject
    feature_names: tuple[str, ...] = ()  # of stacked columns, in order; empty when the source has no names


def checked(table: SourceTable, *, place: str = "table") -> SourceTable:
    """The same table with canonical dtypes; `place` (the file) opens every message. Raises SourceRefused."""
    _check_lengths(table, place=place)
    _check_ids(table.record_ids, name="record_id", place=place)
    _check_unique(table.record_ids, place=place)
    _check_ids(table.subject_ids, name="subject_id", place=place)
    spread, likelihood = table.spread, table.likelihood
    if spread is not None:
        spread = whole_numbers(spread, name="spread", minimum=1, place=place)
        _check_one_value_a_subject(spread, subject_ids=table.subject_ids, name="spread", place=place)
    if likelihood is not None:
        likelihood = _likelihood(likelihood, place=place)
        _check_one_value_a_subject(likelihood, subject_ids=table.subject_ids, name="likelihood", place=place)
    return replace(
        table,
        features=_features(table.features, record_ids=table.record_ids, place=place),
        labels=whole_numbers(table.labels, name="labels", minimum=0, place=place),
        spread=spread,
        likelihood=likelihood,
    )


def whole_numbers(values: np.ndarray, *, name: str, minimum: int, place: str) -> npt.NDArray[np.int64]:
    """`values` (num_records,) as int64; floats pass when whole, booleans count as 0 and 1."""
    if values.ndim != 1:
        raise SourceRefused(f"{place}: {name} has shape {values.shape}, one whole number a record is needed")
    if values.dtype.kind not in "biuf":
        raise SourceRefused(f"{place}: {name} of dtype {values.dtype} are not integers")
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        _refuse_first(~np.isfinite(values) | (np.floor(values) != values), values, name, place, "not whole")
    # A float or uint64 beyond int64 would wrap around silently in the cast below.
    if values.dtype.kind in "uf":
        _refuse_first(values >= 2**63, values, name, place, "too large")
    whole = values.astype(np.int64)
    _refuse_first(whole < minimum, whole, name, place, f"less than {minimum}")
    return whole


def _refuse_first(
    is_bad: npt.NDArray[np.bool_], values: np.ndarray, name: str, place: str, fault: str
) -> None:
    if is_bad.any():
        row = int(is_bad.argmax())
        raise SourceRefused(f"{place}: {name} in row {row} is {fault}: {values[row]}")


def _check_lengths(table: SourceTable, *, place: str) -> None:
    if table.features.ndim < 2:
        raise SourceRefused(f"{place}: features of shape {table.features.shape} are not (records, values)")
    num_records = len(table.features)
    if num_records == 0:
        raise SourceRefused(f"{place}: holds no records")
    columns: dict[str, list[str] | np.ndarray | None] = {
        "labels": table.labels,
        "record_id": table.record_ids,
        "subject_id": table.subject_ids,
        "split": table.held_out,
        "spread": table.spread,
        "likelihood": table.likelihood,
    }
    for name, column in columns.items():
        if column is not None and _length(column) != num_records:
            raise SourceRefused(f"{place}: {name} has {_length(column)} entries, features have {num_records}")


def _length(column: list[str] | np.ndarray) -> int:
    return 1 if isinstance(column, np.ndarray) and column.ndim == 0 else len(column)


def _check_ids(ids: list[str], *, name: str, place: str) -> None:
    for row, text in enumerate(ids):
        # The importer strips ids: one of blanks alone would be empty there, where no row is known any more.
        if not text.strip():
            raise SourceRefused(f"{place}: {name} in row {row} is empty")
        # Ids are hashed as UTF-8 later; a lone surrogate has none.
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SourceRefused(f"{place}: {name} in row {row} is not valid Unicode: {text!a}")


def _check_unique(record_ids: list[str], *, place: str) -> None:
    first_rows: dict[str, int] = {}
    for row, record_id in enumerate(record_ids):
        first = first_rows.setdefault(record_id, row)
        if first != row:
            raise SourceRefused(f"{place}: record_id {record_id!r} is in row {first} and again in row {row}")


def _check_one_value_a_subject(values: np.ndarray, *, subject_ids: list[str], name: str, place: str) -> None:
    first_rows: dict[str, int] = {}
    for row, (subject_id, value) in enumerate(zip(subject_ids, values.tolist(), strict=True)):
        first = first_rows.setdefault(subject_id, row)
        if values[first] != value:
            raise SourceRefused(
                f"{place}: subject {subject_id!r} has two values of {name}: "
                f"{values[first]} in row {first}, {value} in row {row}"
            )


def _likelihood(values: np.ndarray, *, place: str) -> npt.NDArray[np.float64]:
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        shape = f"dtype {values.dtype} and shape {values.shape}"
        raise SourceRefused(f"{place}: likelihood of {shape} is not one number a record")
    likelihood = values.astype(np.float64)
    _refuse_first(~np.isfinite(likelihood), likelihood, "likelihood", place, "not finite")
    _refuse_first(likelihood < 0, likelihood, "likelihood", place, "negative")
    return likelihood


def _features(features: np.ndarray, *, record_ids: list[str], place: str) -> np.ndarray:
    if features.dtype.kind == "b":
        features = features.astype(np.uint8)
    # Eight bytes at most: no tensor holds a long double.
    if features.dtype.kind not in "uif" or features.dtype.itemsize > 8:
        raise SourceRefused(f"{place}: features of dtype {features.dtype} are not numeric")
    if features[0].size == 0:
        raise SourceRefused(f"{place}: features of shape {features.shape} hold no values")
    bad = _first_not_finite(features) if features.dtype.kind == "f" else None
    if bad is not None:
        row, *index = bad
        raise SourceRefused(
            f"{place}: row {row} (record_id {record_ids[row]!r}): feature {index} is {features[bad]}"
        )
    return np.ascontiguousarray(features.astype(features.dtype.newbyteorder("<"), copy=False))


def _first_not_finite(features: np.ndarray) -> tuple[int, ...] | None:
    step = max(1, VALUES_PER_LOOK // features[0].size)
    for start in range(0, len(features), step):
        is_bad = ~np.isfinite(features[start : start + step])
        if is_bad.any():
            row, *index = (int(i) for i in np.unravel_index(int(is_bad.argmax()), is_bad.shape))
            return (start + row, *index)
    return None
