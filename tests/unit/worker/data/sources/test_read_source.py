"""From a path to the right reader."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.data.sources import READERS, SourceOptions, SourceRefused, detect_format, read_source

IDX_IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 8])
IDX_LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0])


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, features=np.array([[7], [8]], np.uint8), labels=np.array([1, 0]))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([7, 8], pa.uint8()), "label": [1, 0]}), path)


def write_idx(path: Path) -> None:
    path.write_bytes(IDX_IMAGES)
    path.with_name("train-labels-idx1-ubyte").write_bytes(IDX_LABELS)


def write_gzipped_idx(path: Path) -> None:
    write_idx(path)
    path.write_bytes(gzip.compress(IDX_IMAGES))


@pytest.mark.parametrize(
    ("write", "format"),
    [(write_npz, "npz"), (write_parquet, "parquet"), (write_idx, "idx"), (write_gzipped_idx, "idx")],
)
def test_the_format_is_told_by_content(tmp_path: Path, write, format: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    write(path)
    assert detect_format(str(path)) == format
    table = read_source(str(path))
    assert table.features.ravel().tolist() == [7, 8]
    assert table.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("name", "format"), [("train-images-idx3-ubyte", "idx"), ("0.parquet", "parquet")])
def test_the_format_of_a_folder_is_told_by_its_files(tmp_path: Path, name: str, format: str) -> None:
    {"idx": write_idx, "parquet": write_parquet}[format](tmp_path / name)
    assert detect_format(str(tmp_path)) == format
    assert len(read_source(str(tmp_path)).labels) == 2


def test_digits_need_no_path() -> None:
    assert len(read_source("digits").labels) == 1797


@pytest.mark.parametrize("name", ["d.parquet", "d.npz", "d.gz", "train-images-idx3-ubyte"])
def test_damaged_content_is_left_to_the_reader_that_the_name_tells(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"damaged beyond recognition")
    assert detect_format(str(path)) in READERS
    with pytest.raises(SourceRefused, match=name):
        read_source(str(path))


def test_unknown_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n")
    with pytest.raises(SourceRefused, match=r"d\.csv: not a format that is read here: parquet, npz, idx"):
        detect_format(str(tmp_path / "d.csv"))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n")
    with pytest.raises(SourceRefused, match=r"holds no \.parquet files"):
        detect_format(str(tmp_path))


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="gone: no such file or folder"):
        read_source(str(tmp_path / "gone"))


@pytest.mark.parametrize("format", ["parquet", "npz", "idx"])
def test_a_missing_source_of_a_known_format_is_refused(tmp_path: Path, format: str) -> None:
    with pytest.raises(SourceRefused, match="gone: no such file or folder"):
        read_source(str(tmp_path / "gone"), format=format)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(
        SourceRefused, match="d: no format 'csv'; there is: parquet, npz, idx, sheets, digits"
    ):
        read_source("d", format="csv")


def test_a_format_the_caller_names_is_not_looked_for(tmp_path: Path) -> None:
    write_npz(tmp_path / "d")
    with pytest.raises(SourceRefused, match="d: not an IDX file"):
        read_source(str(tmp_path / "d"), format="idx", options=SourceOptions(labels_path=tmp_path / "d"))


def test_a_path_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(SourceRefused, match="labels_path is for IDX files, this is digits"):
        read_source("digits", options=SourceOptions(labels_path=Path("y")))
    with pytest.raises(SourceRefused, match="subjects_path is for PNG sheets, this is digits"):
        read_source("digits", options=SourceOptions(subjects_path=Path("y")))


def test_readers_know_neither_torch_nor_a_database() -> None:
    program = (
        "import sys, worker.data.sources; print([m for m in ('torch', 'sqlalchemy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
