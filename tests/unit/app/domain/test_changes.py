"""What a rectification may change: labels that exist, features that have a name, numbers the type holds."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.changes import Changes
from app.domain.terms import JsonObject

NAMED: JsonObject = {"shape": [2], "dtype": "<f4", "num_classes": 3, "feature_names": ["age", "income"]}
UNNAMED: JsonObject = {"shape": [3], "dtype": "|u1", "num_classes": 2}
IMAGES: JsonObject = {"shape": [8, 8], "dtype": "|u1", "num_classes": 10}


def pointers(changes: Changes, layout: JsonObject) -> list[str]:
    return [misfit.pointer for misfit in changes.misfits(layout, dataset="people")]


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_label_that_the_dataset_has_fits(label: int) -> None:
    assert pointers(Changes(label=label), NAMED) == []


def test_a_label_that_no_record_has_does_not_fit() -> None:
    (misfit,) = Changes(label=3).misfits(NAMED, dataset="people")
    assert (misfit.pointer, misfit.detail) == ("/label", "dataset 'people' has the labels 0 to 2")


def test_features_go_by_their_names_or_by_index_where_there_are_none() -> None:
    assert Changes(features={"income": 2.5, "age": 40}).places(NAMED) == {1: 2.5, 0: 40}
    assert Changes(features={"2": 255}).places(UNNAMED) == {2: 255}
    assert pointers(Changes(features={"0": 1}), NAMED) == ["/features"]
    assert pointers(Changes(features={"3": 1}), UNNAMED) == ["/features"]


def test_pixels_are_no_statement_about_anybody() -> None:
    assert pointers(Changes(label=1, features={"0": 1}), IMAGES) == ["/features"]


@pytest.mark.parametrize("dtype", ["|u1", "|i1", "<u2", "<i4", "<u8", "<i8"])
@given(value=st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False))
def test_whole_types_take_the_whole_numbers_in_their_range_and_no_others(dtype: str, value: float) -> None:
    info = np.iinfo(np.dtype(dtype))
    fits = value == int(value) and info.min <= int(value) <= info.max
    layout: JsonObject = {**UNNAMED, "dtype": dtype}
    assert pointers(Changes(features={"0": value}), layout) == ([] if fits else ["/features/0"])


@pytest.mark.parametrize(("dtype", "code"), [("<f2", "e"), ("<f4", "f"), ("<f8", "d")])
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_float_types_take_what_they_can_hold(dtype: str, code: str, value: float) -> None:
    with np.errstate(over="ignore"):
        fits = bool(np.isfinite(np.dtype(dtype).type(value)))
    layout: JsonObject = {**UNNAMED, "dtype": dtype}
    assert pointers(Changes(features={"0": value}), layout) == ([] if fits else ["/features/0"])
    if fits:
        assert struct.unpack(code, struct.pack(code, value))[0] == np.dtype(dtype).type(value)


@given(st.none() | st.integers(0, 9), st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False)))
def test_what_a_request_keeps_gives_the_same_changes(label: int | None, features: dict[str, float]) -> None:
    changes = Changes(label=label, features=features)
    stored: JsonObject = {**changes.to_json(), "rows": {"dat_1": [1, 2]}}
    assert Changes.from_json(stored) == changes
