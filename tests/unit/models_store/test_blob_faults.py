"""What the blob store promises while things break: full disks, kills, many writers at once."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from models_store.blobs import BlobStore, digest_of
from models_store.durable import written_new
from models_store.errors import BlobMissing, BlobNotRemoved, BlobNotWritten

REPOSITORY = Path(__file__).parents[3]

PUT_ON_A_FULL_DISK = """
import resource, sys
from models_store.blobs import BlobStore
from models_store.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    BlobStore(sys.argv[1]).put(b"x" * 5000)
except StoreError as error:
    print(type(error).__name__, type(error.__cause__).__name__)
"""

PUT_FOR_EVER = """
import itertools, sys
from models_store.blobs import BlobStore
store = BlobStore(sys.argv[1])
for number in itertools.count():
    store.put(bytes([number % 256]) * (100_000 + number))
    print(number, flush=True)
"""


def child(program: str, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-B", "-c", program, str(root)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("held", [b"", b"y" * 10])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, held: bytes) -> None:
    digest = BlobStore(tmp_path).put(held)
    with child(PUT_ON_A_FULL_DISK, tmp_path) as process:
        assert process.communicate()[0] == "BlobNotWritten OSError\n"
    assert [path.name for path in files_in(tmp_path)] == [digest]
    assert BlobStore(tmp_path).put(b"x" * 5000) == digest_of(b"x" * 5000)


def test_what_a_killed_writer_made_visible_is_whole(tmp_path: Path) -> None:
    with child(PUT_FOR_EVER, tmp_path) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    store = BlobStore(tmp_path)
    assert {digest_of(store.get(digest)) for digest in store.digests()} == set(store.digests())
    for number in acknowledged:
        assert store.has(digest_of(bytes([number % 256]) * (100_000 + number)))


def test_old_temporary_files_are_swept_and_young_ones_are_left_to_their_writers(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.sweep_temporary(0) == 0
    digest = store.put(b"weights")
    old, young = tmp_path / "tmp" / "old", tmp_path / "tmp" / "young"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 3601, time.time() - 3601))
    assert store.sweep_temporary(older_than_seconds=3600) == 1
    assert not old.exists()
    assert young.exists()
    assert store.get(digest) == b"weights"


def test_what_a_live_writer_holds_is_left_to_it_and_what_a_killed_one_left_is_swept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.put(b"weights")
    half_written = tmp_path / "tmp" / "half-written"
    with written_new(half_written, data=b"other weights"):
        assert store.sweep_temporary() == 0
    assert store.sweep_temporary() == 1
    assert not half_written.exists()


def test_a_store_below_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BlobNotWritten, match=digest_of(b"weights")) as caught:
        BlobStore(tmp_path / "file" / "store").put(b"weights")
    assert isinstance(caught.value.__cause__, OSError)


def test_readers_see_whole_blobs_or_none_while_others_put_and_remove(tmp_path: Path) -> None:
    store, data = BlobStore(tmp_path), b"w" * 100_000
    digest = store.put(data)

    def churn(number: int) -> bytes:
        # Callers rule out this race by a lock; without one, absence may stay unproven, and is said to be.
        with suppress(BlobNotRemoved):
            _ = store.remove(digest) if number % 2 else store.put(data)
        try:
            return store.get(digest) if number % 3 else store.path(digest).read_bytes()
        except (BlobMissing, FileNotFoundError):
            return data

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(churn, range(80))) == {data}
    assert files_in(tmp_path / "tmp") == []


def test_a_blob_that_comes_back_while_it_is_removed_is_not_called_absent(tmp_path: Path) -> None:
    store, is_over = BlobStore(tmp_path / "store"), threading.Event()
    path = store.path(store.put(b"weights"))
    os.link(path, tmp_path / "copy")

    def bring_back() -> None:
        while not is_over.is_set():
            with suppress(FileExistsError):
                os.link(tmp_path / "copy", path)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(bring_back)
        try:
            with pytest.raises(BlobNotRemoved, match="came back"):
                deque((store.remove(path.name) for _ in range(10_000)), maxlen=0)
        finally:
            is_over.set()


def test_the_service_needs_neither_torch_nor_numpy_for_blobs_and_manifests(tmp_path: Path) -> None:
    program = (
        "import sys, models_store.blobs, models_store.manifest, models_store.errors;"
        "print(sorted({'torch', 'numpy', 'safetensors', 'app', 'worker'} & set(sys.modules)))"
    )
    with child(program, tmp_path) as process:
        assert process.communicate()[0] == "[]\n"
