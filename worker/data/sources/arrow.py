"""Turns Arrow columns into numpy arrays and text.

Promises that no null and no list of another length gets through: the row and the column are named.
Never converts a value that the target dtype cannot hold exactly.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worker.data.sources.columns import Column
from worker.data.sources.files import foreign_errors
from worker.data.sources.table import SourceRefused

FLOAT64_WHOLE = 2**53  # every integer up to here is exact in float64


def is_numeric(arrow_type: pa.DataType) -> bool:
    """Whether `plain_column` gives numbers that features can hold."""
    return bool(
        pa.types.is_boolean(arrow_type) or pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type)
    )


def is_nested(arrow_type: pa.DataType) -> bool:
    """Whether a column holds a list or a tensor a record."""
    return _is_list(arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type)


def plain_column(column: pa.ChunkedArray, *, name: str, place: str) -> Column:
    """Text as a list, numbers as an array (num_records,); anything else and nulls are refused."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise SourceRefused(f"{place}: column {name!r} is null in row {row}")
    if is_numeric(column.type):
        return np.asarray(column.to_numpy())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        with foreign_errors(f"{place}: column {name!r}", errors=(UnicodeDecodeError,)):
            return list(column.to_pylist())
    raise SourceRefused(f"{place}: column {name!r} holds {column.type}, text or numbers are needed")


def stacked_columns(table: pa.Table, *, names: list[str], place: str) -> np.ndarray:
    """(num_records, len(names)): uint8 when all are, else float32 unless a value needs float64."""
    columns = [_numbers(table.column(name), name=name, place=place) for name in names]
    if all(column.dtype == np.uint8 for column in columns):
        return np.stack(columns, axis=1)
    if all(_fits_float32(column) for column in columns):
        return np.stack([column.astype(np.float32) for column in columns], axis=1)
    for name, column in zip(names, columns, strict=True):
        if not _is_within(column, FLOAT64_WHOLE):
            raise SourceRefused(f"{place}: column {name!r} holds integers beyond 2**53, which no float keeps")
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def nested_column(column: pa.ChunkedArray, *, name: str, place: str) -> np.ndarray:
    """(num_records, *shape) from lists of lists of equal length, or from fixed-shape tensors."""
    where = f"{place}: column {name!r}"
    tensor_type = column.type if isinstance(column.type, pa.FixedShapeTensorType) else None
    permutation = tensor_type.permutation if tensor_type is not None else None
    if permutation is not None and list(permutation) != sorted(permutation):
        raise SourceRefused(f"{where} holds tensors with permuted dimensions")
    features: np.ndarray | None = None
    start = 0
    # Chunk by chunk: a whole column may have more values than a list's 32-bit offsets can count.
    for chunk in column.iterchunks():
        if len(chunk) == 0:
            continue
        values = _nested_chunk(chunk, start=start, where=where)
        if features is None:
            features = np.empty((len(column), *values.shape[1:]), dtype=values.dtype)
        if values.shape[1:] != features.shape[1:]:
            raise _other_shape(start, shape=values.shape[1:], first=features.shape[1:], where=where)
        features[start : start + len(chunk)] = values
        start += len(chunk)
    assert features is not None, "the reader refuses a source without records before this"
    return features if tensor_type is None else features.reshape(len(column), *tensor_type.shape)


def _nested_chunk(chunk: pa.Array, *, start: int, where: str) -> np.ndarray:
    """One chunk that begins at row `start`."""
    values = chunk.storage if isinstance(chunk.type, pa.BaseExtensionType) else chunk
    shape: tuple[int, ...] = ()
    num_per_record = 1
    while _is_list(values.type):
        _refuse_null(values, start=start, num_per_record=num_per_record, where=where)
        length = _list_length(values, start=start, num_per_record=num_per_record, where=where)
        values = values.flatten()
        shape, num_per_record = (*shape, length), num_per_record * length
    _refuse_null(values, start=start, num_per_record=num_per_record, where=where)
    if not is_numeric(values.type):
        raise SourceRefused(f"{where} holds lists of {values.type}, numbers are needed")
    return _bool_as_uint8(np.asarray(values.to_numpy(zero_copy_only=False))).reshape(len(chunk), *shape)


def _list_length(values: pa.Array, *, start: int, num_per_record: int, where: str) -> int:
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    length = int(lengths[0])
    if (lengths != length).any():
        other = int((lengths != length).argmax())
        row = start + other // num_per_record
        raise _other_shape(row, shape=(int(lengths[other]),), first=(length,), where=where)
    if length == 0:
        raise SourceRefused(f"{where} holds an empty list in row {start}")
    return length


def _refuse_null(values: pa.Array, *, start: int, num_per_record: int, where: str) -> None:
    if values.null_count:
        row = start + pc.index(pc.is_null(values), True).as_py() // num_per_record
        raise SourceRefused(f"{where} is null or holds a null in row {row}")


def _other_shape(row: int, *, shape: tuple[int, ...], first: tuple[int, ...], where: str) -> SourceRefused:
    return SourceRefused(f"{where}: row {row} holds a list of shape {shape}, those before have {first}")


def _is_list(arrow_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(arrow_type)
        or pa.types.is_large_list(arrow_type)
        or pa.types.is_fixed_size_list(arrow_type)
    )


def _numbers(column: pa.ChunkedArray, *, name: str, place: str) -> np.ndarray:
    values = plain_column(column, name=name, place=place)
    assert not isinstance(values, list), "the reader stacks columns of numbers alone"
    return _bool_as_uint8(values)


def _bool_as_uint8(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _fits_float32(column: np.ndarray) -> bool:
    if not _is_within(column, FLOAT64_WHOLE):
        return False
    with np.errstate(over="ignore"):  # beyond float32 is infinite there, so it differs below
        there_and_back = column.astype(np.float32).astype(column.dtype)
    return np.array_equal(column, there_and_back)


def _is_within(column: np.ndarray, bound: int) -> bool:
    """Floats always are; integers by value, since a cast back and forth at the edge of int64 is undefined."""
    return column.dtype.kind == "f" or (int(column.max()) <= bound and int(column.min()) >= -bound)
