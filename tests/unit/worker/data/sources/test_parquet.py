"""The Parquet reader: files, folders, nested lists, columns of numbers, and what it refuses."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from worker.data.sources.options import SourceOptions
from worker.data.sources.parquet import read_parquet
from worker.data.sources.table import SourceRefused, SourceTable


def read(path: Path, **options: object) -> SourceTable:
    return read_parquet(str(path), options=SourceOptions(**options))


def written(folder: Path, name: str = "d.parquet", /, **columns: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    num_records = len(next(iter(columns.values())))
    pq.write_table(pa.table({"label": [1] * num_records, **columns}), path)
    return path


def nested(array: np.ndarray, *, is_fixed: bool) -> pa.Array:
    values = pa.array(array.ravel())
    for side in reversed(array.shape[1:]):
        if is_fixed:
            values = pa.FixedSizeListArray.from_arrays(values, side)
        else:
            values = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, side, dtype=np.int32), values)
    return values


@settings(max_examples=40, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 6))
def test_nested_lists_come_back(data: st.DataObject, is_fixed: bool, rows_per_group: int) -> None:
    dtype = data.draw(st.sampled_from(["u1", "i2", "i8", "f4", "f8"]))
    shape = data.draw(st_numpy.array_shapes(min_dims=2, max_dims=4, max_side=4))
    numbers = {"allow_nan": False, "allow_infinity": False} if dtype[0] == "f" else None
    array = data.draw(st_numpy.arrays(dtype, shape, elements=numbers))
    columns = pa.table({"features": nested(array, is_fixed=is_fixed), "label": np.arange(shape[0])})
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(columns, Path(folder) / "d", row_group_size=rows_per_group)
        table = read(Path(folder) / "d")
    assert table.features.dtype == np.dtype(dtype)
    assert np.array_equal(table.features, array)
    assert table.labels.tolist() == list(range(shape[0]))


def test_every_optional_column_is_read(tmp_path: Path) -> None:
    table = read(
        written(
            tmp_path,
            record_id=["a", "b", "c"],
            subject_id=pa.array([4, 4, 5]),
            split=pa.array(["train", "train", "test"]).dictionary_encode(),
            spread=[2, 2, 1],
            likelihood=[0.5, 0.5, 0],
            features=[[1.0], [2.0], [3.0]],
        )
    )
    assert (table.record_ids, table.subject_ids) == (["a", "b", "c"], ["4", "4", "5"])
    assert [column.tolist() for column in (table.held_out, table.spread, table.likelihood)] == [
        [False, False, True],
        [2, 2, 1],
        [0.5, 0.5, 0],
    ]
    assert table.features.tolist() == [[1.0], [2.0], [3.0]]


def test_columns_go_by_the_names_the_caller_gives(tmp_path: Path) -> None:
    path = written(tmp_path, x=[[1, 2]], features=[[3, 4]], y=[7], person=["p"], key=["k"])
    table = read(
        path, features_columns=("x",), label_column="y", subject_column="person", record_column="key"
    )
    assert table.features.tolist() == [[1, 2]]
    assert table.labels.tolist() == [7]
    assert (table.record_ids, table.subject_ids) == (["k"], ["p"])


def test_an_image_column_holds_the_features(tmp_path: Path) -> None:
    table = read(written(tmp_path, image=[[[1, 2]], [[3, 4]]], weight=[1.0, 2.0]))
    assert table.features.tolist() == [[[1, 2]], [[3, 4]]]


def test_tensors_come_back_in_their_shape(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    table = read(written(tmp_path, features=pa.FixedShapeTensorArray.from_numpy_ndarray(array)))
    assert np.array_equal(table.features, array)


def test_tensors_with_permuted_dimensions_are_refused(tmp_path: Path) -> None:
    tensor_type = pa.fixed_shape_tensor(pa.uint8(), [2, 3], permutation=[1, 0])
    storage = pa.array([[1] * 6], pa.list_(pa.uint8(), 6))
    with pytest.raises(SourceRefused, match="column 'features' holds tensors with permuted dimensions"):
        read(written(tmp_path, features=pa.ExtensionArray.from_storage(tensor_type, storage)))


def test_boolean_lists_become_bytes(tmp_path: Path) -> None:
    table = read(written(tmp_path, features=[[True, False]]))
    assert table.features.dtype == np.uint8
    assert table.features.tolist() == [[1, 0]]


def test_remaining_numbers_are_features_in_schema_order(tmp_path: Path) -> None:
    path = written(
        tmp_path, b=[1.5], name=["x"], a=[2.5], record_id=["r"], person=[9], spread=[1], __index_level_0__=[8]
    )
    assert read(path, subject_column="person").features.tolist() == [[1.5, 2.5]]


def test_a_role_replaced_by_name_does_not_become_a_feature(tmp_path: Path) -> None:
    path = written(tmp_path, x=[1.5], y=[3], subject_id=[12])
    assert read(path, label_column="y", record_column="subject_id").features.tolist() == [[1.5]]


def test_named_numbers_are_features_in_the_order_named(tmp_path: Path) -> None:
    path = written(tmp_path, a=[1.0], b=[2.0], c=[3.0])
    assert read(path, features_columns=("c", "a")).features.tolist() == [[3.0, 1.0]]


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        (pa.array([1], pa.uint8()), pa.array([255], pa.uint8()), np.uint8),
        (pa.array([1], pa.uint8()), pa.array([True]), np.uint8),
        (pa.array([1], pa.uint8()), pa.array([-1], pa.int16()), np.float32),
        (pa.array([0.5], pa.float64()), pa.array([3], pa.int64()), np.float32),
        (pa.array([0.5], pa.float16()), pa.array([3], pa.int64()), np.float32),
        (pa.array([0.1], pa.float64()), pa.array([3], pa.int64()), np.float64),
        (pa.array([1e300], pa.float64()), pa.array([3], pa.uint8()), np.float64),
        (pa.array([0.5], pa.float32()), pa.array([2**24 + 1], pa.int64()), np.float64),
        (pa.array([0.5], pa.float32()), pa.array([-(2**53)], pa.int64()), np.float32),
        (pa.array([0.5], pa.float32()), pa.array([2**53], pa.uint64()), np.float32),
        (pa.array([0.5], pa.float32()), pa.array([2**53 - 1], pa.uint64()), np.float64),
    ],
)
def test_mixed_numbers_get_the_narrowest_exact_dtype(
    tmp_path: Path, a: pa.Array, b: pa.Array, dtype: type
) -> None:
    table = read(written(tmp_path, a=a, b=b))
    assert table.features.dtype == dtype
    assert table.features.tolist() == [[a.to_numpy(False)[0], b.to_numpy(False)[0]]]


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_integers_that_no_float_keeps_are_refused(tmp_path: Path, value: int) -> None:
    with pytest.raises(SourceRefused, match=r"column 'b' holds integers beyond 2\*\*53"):
        read(written(tmp_path, a=[0.5], b=[value]))


def test_a_nan_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match=r"row 1 \(record_id '1'\): feature \[0\] is nan"):
        read(written(tmp_path, a=[0.5, float("nan")], b=[1, 2]))


FEATURE_FAULTS = {
    "null number": ({"a": [1.0, 2.0, None]}, "column 'a' is null in row 2"),
    "null id": ({"a": [1.0, 2.0], "subject_id": [None, "p"]}, "column 'subject_id' is null in row 0"),
    "null label": ({"label": [0, None], "a": [1, 2]}, "column 'label' is null in row 1"),
    "null record": ({"features": [[1], [2], None]}, "column 'features' is null or holds a null in row 2"),
    "null inside": ({"features": [[[1, 2]], [[3, None]]]}, "'features' is null or holds a null in row 1"),
    "null list inside": ({"features": [[[1], [2]], [[3], None]]}, "is null or holds a null in row 1"),
    "another length": ({"features": [[1, 2], [3, 4], [5]]}, r"row 2 holds a list of shape \(1,\)"),
    "another inner length": (
        {"features": [[[1], [2]], [[3], [4, 5]]]},
        r"row 1 holds a list of shape \(2,\)",
    ),
    "empty list": ({"features": [[], []]}, "holds an empty list in row 0"),
    "lists of text": ({"features": [["a"], ["b"]]}, "holds lists of string, numbers are needed"),
    "encoded image": ({"image": [{"bytes": b"\x89PNG", "path": "a"}]}, "'image' holds struct<.*not numbers"),
    "text alone": ({"name": ["a"], "z": [[1]]}, r"no column of features; .* there is: \['name', 'z'\]"),
    "float id": ({"a": [1], "record_id": [1.0]}, "record_id of dtype float64, text or integers are needed"),
    "list as id": ({"a": [1], "record_id": [["x"]]}, "column 'record_id' holds list<.*, text or numbers"),
    "text label": ({"label": ["cat"], "a": [1]}, "labels of dtype <U3 are not integers"),
    "record twice": ({"a": [1, 2], "record_id": ["x", "x"]}, "record_id 'x' is in row 0 and again in row 1"),
    "split word": ({"a": [1], "split": ["dev"]}, "split in row 0 is 'dev'"),
    "no records": ({"a": pa.array([], pa.int8())}, "holds no records"),
}


@pytest.mark.parametrize(("columns", "fault"), FEATURE_FAULTS.values(), ids=FEATURE_FAULTS.keys())
def test_bad_columns_are_refused_by_name(tmp_path: Path, columns: dict[str, object], fault: str) -> None:
    with pytest.raises(SourceRefused, match=rf"d\.parquet: .*{fault}"):
        read(written(tmp_path, **columns))


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("gone",), "no column 'gone' for features"),
        (("a", "z"), "column 'z' holds lists, so it must be the only one"),
        (("name",), "column 'name' holds string, not numbers or lists of them"),
    ],
)
def test_bad_names_of_features_are_refused(tmp_path: Path, names: tuple[str, ...], fault: str) -> None:
    with pytest.raises(SourceRefused, match=fault):
        read(written(tmp_path, a=[1], z=[[1]], name=["x"]), features_columns=names)


def test_a_row_is_counted_over_row_groups(tmp_path: Path) -> None:
    columns = pa.table({"label": [0] * 5, "features": [[1], [2], [3], [4], [5, 6]]})
    pq.write_table(columns, tmp_path / "d", row_group_size=2)
    with pytest.raises(SourceRefused, match=r"row 4 holds a list of shape \(2,\)"):
        read(tmp_path / "d")


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1])] * 3, names=["label", "x", "x"])
    pq.write_table(twice, tmp_path / "d")
    with pytest.raises(SourceRefused, match="has two columns named 'x'"):
        read(tmp_path / "d")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n3,4\n", b"PAR1" + b"\xff" * 20 + b"PAR1"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(SourceRefused, match=r"d\.parquet: ") as refusal:
        read(tmp_path / "d.parquet")
    assert refusal.value.__cause__ is not None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path, a=list(range(100)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceRefused, match=r"d\.parquet: Parquet"):
        read(path)


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    columns = pa.table({"label": [0] * 50, "a": [float(i) for i in range(50)]})
    pq.write_table(columns, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(7).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceRefused, match=r"d\.parquet: .*CRC"):
        read(path)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, a=[1, 2], record_id=["first", "second"])
    path.write_bytes(path.read_bytes().replace(b"second", b"\xffecond"))
    with pytest.raises(SourceRefused, match="column 'record_id': 'utf-8' codec can't decode"):
        read(path)


def test_files_of_a_folder_follow_each_other_by_name(tmp_path: Path) -> None:
    written(tmp_path, "b.parquet", a=[3.5])
    written(tmp_path, "a/z.parquet", a=[1.5, 2.5])
    written(tmp_path, ".cache/x.parquet", other=[9])
    table = read(tmp_path)
    assert table.features.tolist() == [[1.5], [2.5], [3.5]]
    assert table.record_ids == ["0", "1", "2"]
    assert table.held_out is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-1f0e.parquet", "data/validation-00000-of-00001-2c9a.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train.parquet", "held_out.parquet"),
    ],
)
def test_names_of_files_tell_the_split(tmp_path: Path, train: str, test: str) -> None:
    written(tmp_path, train, a=[1.5, 2.5])
    written(tmp_path, test, a=[3.5])
    table = read(tmp_path)
    held_out = dict(zip(table.features.ravel().tolist(), table.held_out.tolist(), strict=True))
    assert held_out == {1.5: False, 2.5: False, 3.5: True}


def test_train_files_alone_are_no_split(tmp_path: Path) -> None:
    written(tmp_path, "train-00000-of-00002.parquet", a=[1])
    written(tmp_path, "train-00001-of-00002.parquet", a=[2])
    assert read(tmp_path).held_out is None


def test_a_split_column_outweighs_the_names(tmp_path: Path) -> None:
    written(tmp_path, "train.parquet", a=[1], split=["test"])
    written(tmp_path, "test.parquet", a=[2], split=["train"])
    table = read(tmp_path)
    assert dict(zip(table.features.ravel().tolist(), table.held_out.tolist(), strict=True)) == {
        1: True,
        2: False,
    }


def test_a_file_outside_the_splits_of_the_others_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "test.parquet", a=[1])
    written(tmp_path, "unsupervised.parquet", a=[2])
    with pytest.raises(SourceRefused, match=r"unsupervised\.parquet: its name tells no split"):
        read(tmp_path)


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "a.parquet", a=[1])
    written(tmp_path, "b.parquet", a=[1.5])
    with pytest.raises(SourceRefused, match=r"b\.parquet: its columns are not those of a\.parquet"):
        read(tmp_path)


def test_lists_of_several_files_are_joined(tmp_path: Path) -> None:
    fixed = pa.list_(pa.int8(), 2)
    written(tmp_path, "a.parquet", features=pa.array([[1, 2]], fixed))
    written(tmp_path, "b.parquet", label=pa.array([], pa.int64()), features=pa.array([], fixed))
    written(tmp_path, "c.parquet", features=pa.array([[3, 4], [5, 6]], fixed))
    assert read(tmp_path).features.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_row_of_other_length_is_counted_over_files(tmp_path: Path) -> None:
    written(tmp_path, "a.parquet", features=[[1, 2], [3, 4]])
    written(tmp_path, "b.parquet", features=[[1, 2, 3]])
    with pytest.raises(SourceRefused, match=r"row 2 holds a list of shape \(3,\), those before have \(2,\)"):
        read(tmp_path)


def test_a_null_is_counted_over_files(tmp_path: Path) -> None:
    written(tmp_path, "a.parquet", features=[[1, 2], [3, 4]])
    written(tmp_path, "b.parquet", features=[[1, 2], [3, None]])
    with pytest.raises(SourceRefused, match="holds a null in row 3"):
        read(tmp_path)


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match=r"holds no \.parquet file"):
        read(tmp_path)
