"""The IDX reader: every element type and rank, pairs, folders, and damaged files."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from worker.data.sources.idx import is_images_name, read_array, read_idx
from worker.data.sources.options import SourceOptions
from worker.data.sources.table import SourceRefused, SourceTable

# As the format states them, written here a second time on purpose.
CODES = {
    np.dtype(name): code
    for name, code in zip(["u1", "i1", "i2", "i4", "f4", "f8"], b"\x08\x09\x0b\x0c\x0d\x0e", strict=True)
}
IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([5, 0, 4], dtype=np.uint8)


def encoded(array: np.ndarray) -> bytes:
    header = bytes([0, 0, CODES[array.dtype], array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def read(path: Path, **options: object) -> SourceTable:
    return read_idx(str(path), options=SourceOptions(**options))


def write_pair(
    folder: Path, *, part: str = "train", images: np.ndarray = IMAGES, labels: np.ndarray = LABELS
) -> Path:
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(encoded(labels))
    path = folder / f"{part}-images-idx3-ubyte"
    path.write_bytes(encoded(images))
    return path


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(CODES, key=str)), st.booleans())
def test_every_type_and_rank_comes_back(data: st.DataObject, dtype: np.dtype, is_gzip: bool) -> None:
    shape = data.draw(st_numpy.array_shapes(min_dims=1, max_dims=5, max_side=4))
    array = data.draw(st_numpy.arrays(dtype, shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(gzip.compress(encoded(array)) if is_gzip else encoded(array))
        read_back = read_array(path)
        assert read_back.dtype == dtype
        assert read_back.dtype.isnative
        assert read_back.tobytes() == array.tobytes()
        assert read_back.shape == array.shape


def test_big_endian_bytes_written_by_hand_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes.fromhex("00000b02 00000001 00000002 0102 ff00"))
    assert read_array(path).tolist() == [[0x0102, -256]]


@pytest.mark.parametrize(
    ("stored", "shape"),
    [((3, 5), (3, 5)), ((3, 2, 4), (3, 1, 2, 4)), ((3, 2, 4, 5), (3, 2, 4, 5))],
)
def test_gray_images_get_a_channel(tmp_path: Path, stored: tuple[int, ...], shape: tuple[int, ...]) -> None:
    images = np.arange(np.prod(stored), dtype=np.int16).reshape(stored)
    table = read(write_pair(tmp_path, images=images))
    assert table.features.shape == shape
    assert np.array_equal(table.features.ravel(), images.ravel())
    assert table.labels.tolist() == [5, 0, 4]
    assert table.record_ids == ["0", "1", "2"]


def test_plain_bytes_stay_on_disk(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    array = read_array(path)
    assert isinstance(array, np.memmap)
    assert not read(path).features.flags.writeable


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("a-b-images.idx4-ubyte", "a-b-labels.idx1-ubyte"),
    ],
)
def test_labels_are_found_beside_images(tmp_path: Path, images: str, labels: str) -> None:
    (tmp_path / images).write_bytes(gzip.compress(encoded(IMAGES)))
    (tmp_path / labels).write_bytes(encoded(LABELS))  # content, not the name, tells gzip
    assert is_images_name(images)
    assert read(tmp_path / images).labels.tolist() == [5, 0, 4]


def test_labels_are_read_from_where_the_caller_says(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(IMAGES))
    (tmp_path / "y").write_bytes(encoded(LABELS))
    assert read(tmp_path / "x", labels_path=tmp_path / "y").labels.tolist() == [5, 0, 4]


def test_a_name_that_tells_no_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(IMAGES))
    with pytest.raises(SourceRefused, match=r"x: not named .*, so labels_path is needed"):
        read(tmp_path / "x")


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(SourceRefused, match="no train-labels-idx1-ubyte, gzipped or not"):
        read(path)


def test_a_folder_holds_out_its_t10k_part(tmp_path: Path) -> None:
    write_pair(tmp_path)
    write_pair(tmp_path, part="t10k", images=IMAGES[:2] + 100, labels=LABELS[:2])
    table = read(tmp_path, records_per_subject=4)
    assert table.record_ids == ["train-0", "train-1", "train-2", "t10k-0", "t10k-1"]
    assert table.held_out is not None
    assert table.held_out.tolist() == [False] * 3 + [True] * 2
    assert table.labels.tolist() == [5, 0, 4, 5, 0]
    assert table.features[3:, 0].tolist() == (IMAGES[:2] + 100).tolist()
    assert table.subject_ids == ["synthetic-000000"] * 4 + ["synthetic-000001"]


def test_a_folder_with_train_alone_has_no_split(tmp_path: Path) -> None:
    write_pair(tmp_path)
    table = read(tmp_path)
    assert table.held_out is None
    assert table.record_ids == ["train-0", "train-1", "train-2"]


def test_a_folder_without_train_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, part="t10k")
    with pytest.raises(SourceRefused, match="no train-images-idx3-ubyte"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        (np.zeros((3, 2, 3), np.uint8), r"shape \(1, 2, 3\), those of train have \(1, 2, 2\)"),
        (np.zeros((3, 2, 2), np.int8), "dtype int8, those of train have uint8"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, images: np.ndarray, fault: str) -> None:
    write_pair(tmp_path)
    write_pair(tmp_path, part="t10k", images=images)
    with pytest.raises(SourceRefused, match=rf"t10k-images-idx3-ubyte: images of {fault}"):
        read(tmp_path)


def test_a_labels_path_for_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="labels_path is for a single images file"):
        read(tmp_path, labels_path=tmp_path / "y")


def test_a_column_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="has no columns, so none can be named: 'person'"):
        read(write_pair(tmp_path), subject_column="person")


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (IMAGES, LABELS[:2], "labels-idx1-ubyte: 2 labels for 3 images in train-images-idx3-ubyte"),
        (LABELS, LABELS, "images-idx3-ubyte: has one dimension, as labels have"),
        (IMAGES, IMAGES, "labels-idx1-ubyte: has 3 dimensions, labels have one"),
        (IMAGES, np.array([0, -1, 2], np.int8), "labels in row 1 is less than 0"),
        (IMAGES, np.array([0, 1, 0.5]), "labels in row 2 is not whole"),
    ],
)
def test_a_pair_that_is_none_is_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, fault: str
) -> None:
    with pytest.raises(SourceRefused, match=fault):
        read(write_pair(tmp_path, images=images, labels=labels))


WHOLE = encoded(IMAGES)
DAMAGES = {
    "empty": (b"", "not an IDX file, it begins with nothing"),
    "short magic": (WHOLE[:3], "not an IDX file, it begins with 00 00 08"),
    "bad zeros": (b"\1" + WHOLE[1:], "not an IDX file, it begins with 01 00 08 03"),
    "bad type": (b"\0\0\x0a" + WHOLE[3:], "not an IDX file, it begins with 00 00 0a 03"),
    "no dimension": (b"\0\0\x08\0", "not an IDX file"),
    "too many dimensions": (b"\0\0\x08\xff" + bytes([0, 0, 0, 1] * 255) + b"x", "not an IDX file"),
    "short header": (WHOLE[:15], "truncated within the IDX header"),
    "no images": (encoded(IMAGES[:0]), r"holds no data, its shape is \(0, 2, 2\)"),
    "short data": (WHOLE[:-1], r"truncated, 11 of 12 bytes for \(3, 2, 2\)"),
    "promises a planet": (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "truncated, 12 of "),
    "more data": (WHOLE + b"\0", "trailing bytes after the 12"),
}


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize(("content", "fault"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, fault: str, is_gzip: bool) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if is_gzip else content)
    with pytest.raises(SourceRefused, match=f"train-images-idx3-ubyte: {fault}"):
        read_array(path)


@pytest.mark.parametrize("num_bytes", [2, 9, 12, -1, -8])
def test_a_truncated_gzip_is_refused(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(WHOLE)[:num_bytes])
    with pytest.raises(SourceRefused, match=r"a\.gz: Compressed file ended"):
        read_array(path)


def test_a_gzip_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(WHOLE))
    content[-8] ^= 1
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(SourceRefused, match=r"a\.gz: CRC check failed"):
        read_array(tmp_path / "a.gz")


def test_damaged_deflate_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(WHOLE)[:10] + b"\xff" * 30)
    with pytest.raises(SourceRefused, match=r"a\.gz: Error -3 while decompressing"):
        read_array(tmp_path / "a.gz")


def test_a_folder_where_a_file_belongs_is_refused(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    with pytest.raises(SourceRefused, match="is a folder, a file is needed"):
        read(path, labels_path=tmp_path)
