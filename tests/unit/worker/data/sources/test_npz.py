"""The .npz reader: what it reads, and what it refuses by name."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from worker.data.sources.npz import read_npz
from worker.data.sources.options import SourceOptions
from worker.data.sources.table import SourceRefused, SourceTable

FEATURES = np.arange(12, dtype=np.uint8).reshape(3, 4)
LABELS = np.array([0, 1, 2])


def read(path: Path, **options: object) -> SourceTable:
    return read_npz(str(path), options=SourceOptions(**options))


def saved(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "d.npz", **arrays)
    return folder / "d.npz"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_features_and_labels_come_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["u1", "i1", "<i4", ">i8", "<f4", ">f8"]))
    shape = data.draw(st_numpy.array_shapes(min_dims=2, max_dims=4, max_side=4))
    numbers = None if dtype[-2] != "f" else {"allow_nan": False, "allow_infinity": False}
    features = data.draw(st_numpy.arrays(dtype, shape, elements=numbers))
    labels = data.draw(st_numpy.arrays(np.int64, shape[0], elements=st.integers(0, 9)))
    with tempfile.TemporaryDirectory() as folder:
        table = read(saved(Path(folder), features=features, labels=labels))
    assert table.features.dtype == np.dtype(dtype).newbyteorder("<")
    assert np.array_equal(table.features, features)
    assert np.array_equal(table.labels, labels)


def test_every_optional_array_is_read(tmp_path: Path) -> None:
    table = read(
        saved(
            tmp_path,
            features=FEATURES,
            labels=LABELS,
            record_id=np.array(["a", "b", "c"]),
            subject_id=np.array([4, 4, 5]),
            split=np.array(["train", "train", "test"]),
            spread=np.array([2, 2, 1]),
            likelihood=np.array([0.5, 0.5, 0]),
        )
    )
    assert (table.record_ids, table.subject_ids) == (["a", "b", "c"], ["4", "4", "5"])
    assert [column.tolist() for column in (table.held_out, table.spread, table.likelihood)] == [
        [False, False, True],
        [2, 2, 1],
        [0.5, 0.5, 0],
    ]


def test_arrays_go_by_the_names_the_caller_gives(tmp_path: Path) -> None:
    path = saved(tmp_path, x=FEATURES, y=LABELS, person=np.array(["p", "p", "q"]), labels=LABELS + 5)
    table = read(path, features_columns=("x",), label_column="y", subject_column="person")
    assert table.features.shape == (3, 4)
    assert table.labels.tolist() == [0, 1, 2]
    assert table.subject_ids == ["p", "p", "q"]


def test_label_in_the_singular_is_read_too(tmp_path: Path) -> None:
    assert read(saved(tmp_path, features=FEATURES, label=LABELS)).labels.tolist() == [0, 1, 2]


def test_labels_under_both_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="has both 'labels' and 'label'"):
        read(saved(tmp_path, features=FEATURES, label=LABELS, labels=LABELS))


@pytest.mark.parametrize("name", ["features", "labels", "subject_id"])
def test_an_array_of_objects_is_refused_by_name(tmp_path: Path, name: str) -> None:
    arrays = {"features": FEATURES, "labels": LABELS, name: np.array([{}, None, "x"], dtype=object)}
    with pytest.raises(SourceRefused, match=rf"d\.npz: array '{name}': Object arrays cannot be loaded"):
        read(saved(tmp_path, **arrays))


def test_missing_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="no array 'features'; there is: x, labels"):
        read(saved(tmp_path, x=FEATURES, labels=LABELS))


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="no column 'label'; there is: 'features'"):
        read(saved(tmp_path, features=FEATURES))


def test_features_of_two_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match=r"features are one array in an \.npz file, 2 are named"):
        read(saved(tmp_path, a=FEATURES, b=FEATURES, labels=LABELS), features_columns=("a", "b"))


@pytest.mark.parametrize("num_bytes", [0, 1, 40, 200, -1])
def test_a_truncated_archive_is_refused(tmp_path: Path, num_bytes: int) -> None:
    path = saved(tmp_path, features=FEATURES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(SourceRefused, match=r"d\.npz: not a complete \.npz file"):
        read(path)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path, features=np.full((3, 50), 77, np.uint8), labels=LABELS)
    path.write_bytes(path.read_bytes().replace(bytes([77] * 50), bytes([78] * 50), 1))
    with pytest.raises(SourceRefused, match="array 'features': Bad CRC-32"):
        read(path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", FEATURES)
    with pytest.raises(SourceRefused, match=r"not a complete \.npz file"):
        read(tmp_path / "d.npy")


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features", b"plain bytes")
    with pytest.raises(SourceRefused, match="'features' is not a numpy array"):
        read(path)


def test_synthetic_subjects_are_made(tmp_path: Path) -> None:
    table = read(saved(tmp_path, features=FEATURES, labels=LABELS), records_per_subject=2)
    assert table.subject_ids == ["synthetic-000000", "synthetic-000000", "synthetic-000001"]
