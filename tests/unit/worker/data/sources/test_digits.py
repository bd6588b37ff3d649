"""The digits inside scikit-learn."""

import sys

import numpy as np
import pytest

from worker.data.sources.digits import read_digits
from worker.data.sources.options import SourceOptions
from worker.data.sources.table import SourceRefused


def test_digits_are_small_gray_images() -> None:
    table = read_digits("digits", options=SourceOptions())
    assert table.features.shape == (1797, 1, 8, 8)
    assert table.features.dtype == np.uint8
    assert (table.features.min(), table.features.max()) == (0, 16)
    assert sorted(set(table.labels.tolist())) == list(range(10))
    assert table.record_ids[-1] == "1796"
    assert table.held_out is None


def test_digits_get_synthetic_subjects() -> None:
    table = read_digits("digits", options=SourceOptions(records_per_subject=10))
    assert table.subject_ids[9:11] == ["synthetic-000000", "synthetic-000001"]


def test_a_missing_scikit_learn_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SourceRefused, match="digits: scikit-learn is not installed") as refusal:
        read_digits("digits", options=SourceOptions())
    assert isinstance(refusal.value.__cause__, ImportError)


def test_digits_have_no_columns_to_name() -> None:
    with pytest.raises(SourceRefused, match="digits: has no columns"):
        read_digits("digits", options=SourceOptions(label_column="y"))


def test_digits_read_no_file() -> None:
    with pytest.raises(SourceRefused, match=r"my\.npz: format digits reads no file"):
        read_digits("my.npz", options=SourceOptions())
