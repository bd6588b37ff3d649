"""What `checked` lets through, and the one sentence each refusal is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.data.sources import table as table_module
from worker.data.sources.table import SourceRefused, SourceTable, checked


def table_of(num_records: int = 3, **changes: object) -> SourceTable:
    plain = SourceTable(
        features=np.arange(num_records * 4, dtype=np.float32).reshape(num_records, 2, 2),
        labels=np.arange(num_records),
        record_ids=[f"r{row}" for row in range(num_records)],
        subject_ids=[f"s{row // 2}" for row in range(num_records)],
    )
    return replace(plain, **changes)


def features_with(value: float, *, dtype: type = np.float32) -> np.ndarray:
    features = np.zeros((3, 2, 2), dtype=dtype)
    features[1, 0, 1] = value
    return features


REFUSALS = {
    "no records": (table_of(0), "t.npz: holds no records"),
    "flat features": (table_of(features=np.zeros(3)), r"t.npz: features of shape \(3,\)"),
    "too few labels": (table_of(labels=np.arange(2)), "labels has 2 entries, features have 3"),
    "one lone label": (table_of(labels=np.array(1)), "labels has 1 entries, features have 3"),
    "too few record ids": (table_of(record_ids=["a"]), "record_id has 1 entries"),
    "too many subjects": (table_of(subject_ids=["a"] * 4), "subject_id has 4 entries"),
    "too short a split": (table_of(held_out=np.array([True])), "split has 1 entries"),
    "too short a spread": (table_of(spread=np.array([1])), "spread has 1 entries"),
    "too short a likelihood": (table_of(likelihood=np.array([1.0])), "likelihood has 1 entries"),
    "record twice": (table_of(record_ids=["a", "b", "a"]), "record_id 'a' is in row 0 and again in row 2"),
    "empty record id": (table_of(record_ids=["a", "", "c"]), "record_id in row 1 is empty"),
    "blank subject id": (table_of(subject_ids=["a", "b", " \t"]), "subject_id in row 2 is empty"),
    "lone surrogate": (
        table_of(subject_ids=["a", "\ud800", "c"]),
        "subject_id in row 1 is not valid Unicode",
    ),
    "NaN": (table_of(features=features_with(np.nan)), r"row 1 \(record_id 'r1'\): feature \[0, 1\] is nan"),
    "infinity": (table_of(features=features_with(-np.inf)), r"feature \[0, 1\] is -inf"),
    "features of objects": (table_of(features=np.full((3, 1), None)), "features of dtype object"),
    "features of text": (table_of(features=np.full((3, 1), "1")), "features of dtype <U1 are not numeric"),
    "complex features": (table_of(features=np.ones((3, 1), complex)), "features of dtype complex128"),
    "long doubles": (table_of(features=np.ones((3, 1), np.longdouble)), "features of dtype "),
    "features of nothing": (table_of(features=np.ones((3, 0))), r"shape \(3, 0\) hold no values"),
    "labels of text": (table_of(labels=np.array(["a", "b", "c"])), "labels of dtype <U1 are not integers"),
    "labels of objects": (table_of(labels=np.array([1, 2, None])), "labels of dtype object"),
    "one-hot labels": (table_of(labels=np.eye(3)), r"labels has shape \(3, 3\)"),
    "half a label": (table_of(labels=np.array([0, 1, 1.5])), "labels in row 2 is not whole: 1.5"),
    "NaN label": (table_of(labels=np.array([0, np.nan, 1])), "labels in row 1 is not whole: nan"),
    "negative label": (table_of(labels=np.array([0, -1, 1])), "labels in row 1 is less than 0: -1"),
    "huge label": (table_of(labels=np.array([0, 2**63, 1], np.uint64)), "labels in row 1 is too large"),
    "huge whole float": (table_of(labels=np.array([0, 1, 2.0**63])), "labels in row 2 is too large"),
    "no spread": (table_of(spread=np.array([1, 1, 0])), "spread in row 2 is less than 1: 0"),
    "two spreads": (
        table_of(spread=np.array([1, 2, 1])),
        "subject 's0' has two values of spread: 1 in row 0, 2 in row 1",
    ),
    "negative likelihood": (table_of(likelihood=np.array([0, 0, -0.5])), "likelihood in row 2 is negative"),
    "NaN likelihood": (table_of(likelihood=np.array([np.nan, 0, 0])), "likelihood in row 0 is not finite"),
    "infinite likelihood": (table_of(likelihood=np.array([0, 0, np.inf])), "row 2 is not finite"),
    "likelihood of text": (table_of(likelihood=np.array(["a", "b", "c"])), "likelihood of dtype <U1"),
    "two likelihoods": (
        table_of(likelihood=np.array([0.5, 0.25, 0])),
        "subject 's0' has two values of likelihood: 0.5 in row 0, 0.25 in row 1",
    ),
}


@pytest.mark.parametrize(("table", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_table_is_refused_with_its_place(table: SourceTable, message: str) -> None:
    with pytest.raises(SourceRefused, match=message) as refusal:
        checked(table, place="t.npz")
    assert str(refusal.value).startswith("t.npz: ")
    assert "\n" not in str(refusal.value)


def test_a_good_table_keeps_its_values() -> None:
    good = table_of(spread=np.array([2, 2, 1]), likelihood=np.array([0.0, 0.0, 3.5]))
    table = checked(good)
    assert np.array_equal(table.features, good.features)
    assert table.labels.tolist() == [0, 1, 2]
    assert table.spread is not None
    assert table.spread.tolist() == [2, 2, 1]
    assert table.likelihood is not None
    assert table.likelihood.tolist() == [0.0, 0.0, 3.5]


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("swap", [False, True])
def test_features_keep_their_dtype_and_become_little_endian(dtype: str, swap: bool) -> None:
    stored = np.dtype(dtype).newbyteorder("S") if swap else np.dtype(dtype)
    values = np.arange(6).reshape(3, 2)
    table = checked(table_of(features=values.astype(stored)))
    assert table.features.dtype.str == np.dtype(dtype).str
    assert np.array_equal(table.features, values)


def test_features_in_another_memory_order_become_contiguous() -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    table = checked(table_of(features=np.asfortranarray(values)))
    assert table.features.flags.c_contiguous
    assert np.array_equal(table.features, values)


def test_good_features_are_not_copied() -> None:
    good = table_of()
    assert np.shares_memory(checked(good).features, good.features)


def test_boolean_features_become_bytes() -> None:
    table = checked(table_of(features=np.array([[True], [False], [True]])))
    assert table.features.dtype == np.uint8
    assert table.features.tolist() == [[1], [0], [1]]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.uint64, np.float16, np.float64])
def test_whole_labels_of_any_dtype_become_int64(dtype: type) -> None:
    table = checked(table_of(labels=np.array([0, 1, 1], dtype=dtype)))
    assert table.labels.dtype == np.int64
    assert table.labels.tolist() == [0, 1, 1]


def test_large_labels_keep_their_last_digit() -> None:
    assert checked(table_of(labels=np.array([0, 1, 2**53 + 1]))).labels[2] == 2**53 + 1


@given(st.integers(0, 20), st.integers(0, 2), st.integers(1, 40))
def test_a_nan_is_found_wherever_it_is_and_however_small_a_look(row: int, column: int, look: int) -> None:
    features = np.zeros((21, 3), dtype=np.float32)
    features[row, column] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "VALUES_PER_LOOK", look)
        with pytest.raises(SourceRefused, match=rf"row {row} .*feature \[{column}\] is nan"):
            checked(table_of(21, features=features))
