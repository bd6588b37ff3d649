"""Erasing: these rows become zeros on the disk and under every open map, and nothing else changes."""

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.terms import DatasetId
from tests.unit.worker.data.conftest import Store
from worker.data.data_files import DataCorrupt
from worker.data.erasure import Eraser, data_path, zero_rows

ROW_BYTES, NUM_ROWS = 5, 8


@given(rows=st.lists(st.integers(0, NUM_ROWS - 1)))
def test_these_rows_become_zeros_and_no_other_byte_changes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "records"
    path.write_bytes(bytes(range(1, ROW_BYTES * NUM_ROWS + 1)))
    zero_rows(path, rows, row_bytes=ROW_BYTES)
    zero_rows(path, rows, row_bytes=ROW_BYTES)  # twice is once
    expected = bytearray(range(1, ROW_BYTES * NUM_ROWS + 1))
    for row in rows:
        expected[row * ROW_BYTES : (row + 1) * ROW_BYTES] = bytes(ROW_BYTES)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("wrong", [-1, NUM_ROWS, 10**9])
def test_a_row_outside_the_file_erases_nothing_at_all(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"x" * ROW_BYTES * NUM_ROWS)
    with pytest.raises(ValueError, match="has 8 rows"):
        zero_rows(path, [0, 1, wrong], row_bytes=ROW_BYTES)
    assert path.read_bytes() == b"x" * ROW_BYTES * NUM_ROWS


def test_an_open_map_sees_the_zeros_and_the_loader_refuses_them(stored: Store) -> None:
    data = stored()
    before = data.file.rows.copy()
    Eraser(data.folder)(DatasetId("dat"), [4])
    assert data.file.row_bytes(4) == bytes(data.file.layout.row_dtype.itemsize)
    others = [row for row in range(30) if row != 4]
    assert np.array_equal(data.file.rows[others], before[others])
    with pytest.raises(DataCorrupt, match="row 4 "):
        data.loader()


def test_the_file_keeps_its_place_and_its_length(stored: Store) -> None:
    data = stored()
    path = data_path(data.folder, "dat")
    before = path.stat()
    Eraser(data.folder)(DatasetId("dat"), [0, 29])
    after = path.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_write_that_is_cut_short_is_never_taken_for_an_erasure(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"\xff" * 80)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (36, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            zero_rows(path, [4], row_bytes=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
