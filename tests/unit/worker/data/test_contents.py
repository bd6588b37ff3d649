"""Corrected copies of records, written without arrays, are what arrays would give."""

import errno
import hashlib
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from app.domain.changes import Changes
from app.domain.terms import DatasetId
from worker.data.contents import FileContents
from worker.data.data_files import DataFile, Layout, open_data_file, write_data_file
from worker.data.erasure import data_path

OWN = DatasetId("dat_1")
DTYPES = ["|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]


def written(folder: Path, *, dtype: str = "<f4", shape: tuple[int, ...] = (3,)) -> tuple[Layout, list[bytes]]:
    draw = np.random.default_rng(5)
    features = draw.integers(0, 100, size=(5, *shape)).astype(dtype)
    layout = Layout(shape=shape, dtype=dtype, num_classes=3)
    labels = np.array([0, 2, 1, 2, 0])
    return layout, write_data_file(
        folder, OWN, layout=layout, features=features, labels=labels, chosen=np.arange(5)
    )


def opened(folder: Path, layout: Layout) -> DataFile:
    return open_data_file(folder, OWN, layout=layout)


def change(
    folder: Path, layout: Layout, digest: bytes, changes: Changes, *, row: int = 1, at: int = 5
) -> bytes:
    return FileContents(folder).write_changed(
        OWN, layout=layout.to_json(), row=row, digest=digest, changes=changes, at=at
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_differs_in_what_was_changed_and_in_nothing_else(tmp_path: Path, dtype: str) -> None:
    layout, digests = written(tmp_path, dtype=dtype)
    before = np.array(opened(tmp_path, layout).rows)
    expected = before[1:2].copy()
    expected["features"][0, 2], expected["label"][0] = 7, 0
    digest = change(tmp_path, layout, digests[1], Changes(label=0, features={"2": 7.0}))
    rows = opened(tmp_path, layout).rows
    assert rows.tobytes() == before.tobytes() + expected.tobytes()
    assert digest == hashlib.sha256(expected.tobytes()).digest()


def test_writing_again_writes_over_what_was_begun(tmp_path: Path) -> None:
    layout, digests = written(tmp_path)
    change(tmp_path, layout, digests[0], Changes(label=1), row=0)
    digest = change(tmp_path, layout, digests[1], Changes(label=1))
    assert len(opened(tmp_path, layout).rows) == 6
    assert hashlib.sha256(opened(tmp_path, layout).row_bytes(5)).digest() == digest


@pytest.mark.parametrize(
    ("row", "at", "reason"),
    [(1, 7, r"records\.bin ends before row 7"), (2, 5, r"a record in .*records\.bin is not what was")],
)
def test_what_cannot_be_copied_changes_nothing(tmp_path: Path, row: int, at: int, reason: str) -> None:
    layout, digests = written(tmp_path)
    before = data_path(tmp_path, OWN).read_bytes()
    with pytest.raises(ValueError, match=reason):
        change(tmp_path, layout, digests[1], Changes(label=0), row=row, at=at)
    assert data_path(tmp_path, OWN).read_bytes() == before


def test_a_full_disk_is_told_with_the_files_path(tmp_path: Path) -> None:
    layout, digests = written(tmp_path)
    path = data_path(tmp_path, OWN)
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to let the file grow, as it does on a full disk.
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match=r"records\.bin") as refused:
            change(tmp_path, layout, digests[1], Changes(label=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(path))


@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_rows_are_found_by_their_label(tmp_path: Path, shape: tuple[int, ...], label: int) -> None:
    layout, _ = written(tmp_path, shape=shape)
    found = FileContents(tmp_path).labelled(OWN, layout=layout.to_json(), label=label)
    assert list(found) == np.flatnonzero(opened(tmp_path, layout).rows["label"] == label).tolist()
