"""Ids, subjects and splits as they come out of raw columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.data.sources.columns import Column, RawColumns, assemble
from worker.data.sources.table import SourceRefused


def raw(num_records: int = 3, **columns: Column) -> RawColumns:
    return RawColumns(features=np.zeros((num_records, 1)), labels=np.zeros(num_records), **columns)


def test_without_ids_records_are_numbered_and_own_themselves() -> None:
    table = assemble(raw(), place="s")
    assert table.record_ids == ["0", "1", "2"]
    assert table.subject_ids == ["0", "1", "2"]
    assert table.held_out is None


def test_without_subjects_a_subject_goes_by_its_record_id() -> None:
    assert assemble(raw(record_ids=["a", "b", "c"]), place="s").subject_ids == ["a", "b", "c"]


@given(st.integers(1, 30), st.integers(1, 40))
def test_synthetic_subjects_own_consecutive_records(num_records: int, per_subject: int) -> None:
    subjects = assemble(raw(num_records), place="s", records_per_subject=per_subject).subject_ids
    assert subjects == sorted(subjects)
    counts = [subjects.count(subject) for subject in dict.fromkeys(subjects)]
    assert counts[:-1] == [per_subject] * (len(counts) - 1)
    assert 1 <= counts[-1] <= per_subject
    assert subjects[0] == "synthetic-000000"


def test_synthetic_subjects_beside_real_ones_are_refused() -> None:
    with pytest.raises(SourceRefused, match="s: has a subject column"):
        assemble(raw(subject_ids=["a", "b", "c"]), place="s", records_per_subject=2)


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (np.array([7, -1, 0]), ["7", "-1", "0"]),
        (np.array([2**64 - 1, 1, 2], dtype=np.uint64), ["18446744073709551615", "1", "2"]),
        (np.array(["a", "7", "ü"]), ["a", "7", "ü"]),
        (np.array([b"a", b"7", "ü".encode()]), ["a", "7", "ü"]),
        (["007", "1.0", " x"], ["007", "1.0", " x"]),
    ],
)
def test_ids_become_canonical_text(ids: Column, texts: list[str]) -> None:
    table = assemble(raw(record_ids=ids, subject_ids=ids), place="s")
    assert table.record_ids == texts
    assert table.subject_ids == texts


@pytest.mark.parametrize("name", ["record_id", "subject_id", "split"])
@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.array([1.0, 2.0, 3.0]), "of dtype float64, text or integers are needed"),
        (np.array([True, False, True]), "of dtype bool"),
        (np.array([None, 1, 2]), "of dtype object"),
        (np.array(["2020-01-01"] * 3, dtype="M8[D]"), "of dtype datetime64"),
        (np.array([["a"], ["b"], ["c"]]), r"has shape \(3, 1\)"),
        (np.array([b"a", b"\xff", b"c"]), "in row 1 is not UTF-8"),
    ],
)
def test_ids_of_another_kind_are_refused(name: str, values: np.ndarray, fault: str) -> None:
    attribute = {"record_id": "record_ids", "subject_id": "subject_ids", "split": "split"}[name]
    with pytest.raises(SourceRefused, match=f"s: {name} {fault}"):
        assemble(raw(**{attribute: values}), place="s")


def test_all_but_train_is_held_out() -> None:
    table = assemble(raw(4, split=["train", "test", "held_out", "validation"]), place="s")
    assert table.held_out is not None
    assert table.held_out.tolist() == [False, True, True, True]


@pytest.mark.parametrize("word", ["Train", "", "dev"])
def test_another_split_word_is_refused(word: str) -> None:
    with pytest.raises(SourceRefused, match=f"s: split in row 1 is '{word}', not one of: train, test"):
        assemble(raw(split=["train", word, "test"]), place="s")


def test_labels_of_text_are_refused() -> None:
    with pytest.raises(SourceRefused, match="labels of dtype <U3 are not integers"):
        assemble(RawColumns(features=np.zeros((2, 1)), labels=["cat", "dog"]), place="s")
