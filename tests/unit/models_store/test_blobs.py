"""What the blob store promises while nothing breaks: names, verification, absence."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_store.blobs import BlobStore, Digest, digest_of, open_store, parse_digest
from models_store.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobNotRemoved,
    BlobNotWritten,
    DigestMalformed,
    StoreUrlRefused,
)

LONG_AGO_NS = 10**18


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def alter(path: Path, *, mtime_ns: int) -> None:
    """Change the bytes in place: same inode, same size."""
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_the_name_is_the_sha256_of_the_bytes() -> None:
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.binary(max_size=3)), max_size=12))
def test_the_store_behaves_like_a_set_of_blobs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, bytes]]
) -> None:
    store, expected = BlobStore(tmp_path_factory.mktemp("store")), dict[Digest, bytes]()
    store.remove(store.put(b"so that blobs/ is there"))
    for is_put, data in steps:
        digest = digest_of(data)
        if is_put:
            assert store.put(data) == digest
            expected[digest] = data
        else:
            assert store.remove(digest) == (expected.pop(digest, None) is not None)
        assert list(store.digests()) == sorted(expected)
        assert {held: store.get(held) for held in store.digests()} == expected
        assert store.has(digest) == (digest in expected)


def test_a_blob_lies_where_the_layout_says(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put(b"weights")
    assert store.path(digest) == tmp_path / "store" / "blobs" / digest[:2] / digest
    assert store.path(digest).read_bytes() == b"weights"
    assert store.size(digest) == len(b"weights")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_putting_twice_writes_once(store: BlobStore) -> None:
    before = store.path(store.put(b"weights")).stat()
    after = store.path(store.put(b"weights")).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("mtime_ns", [LONG_AGO_NS, 2 * LONG_AGO_NS])
def test_a_blob_that_was_altered_on_disk_is_refused(store: BlobStore, mtime_ns: int) -> None:
    digest = store.put(b"weights")
    os.utime(store.path(digest), ns=(LONG_AGO_NS, mtime_ns - 1))
    alter(store.path(digest), mtime_ns=mtime_ns)
    with pytest.raises(BlobCorrupt, match=digest):
        store.path(digest)
    with pytest.raises(BlobCorrupt, match=digest):
        store.get(digest)


def test_an_alteration_within_the_grain_of_the_clock_is_seen(store: BlobStore) -> None:
    digest = store.put(b"weights")
    path = store.path(digest)
    alter(path, mtime_ns=path.stat().st_mtime_ns)
    with pytest.raises(BlobCorrupt):
        store.path(digest)


def test_a_settled_file_is_hashed_once_for_path_and_always_for_get(store: BlobStore) -> None:
    digest = store.put(b"weights")
    os.utime(store.path(digest), ns=(LONG_AGO_NS, LONG_AGO_NS))
    path = store.path(digest)
    # Only a store that does not read again can be deceived by a restored mtime: this is what "once" means.
    alter(path, mtime_ns=LONG_AGO_NS)
    assert store.path(digest) == path
    with pytest.raises(BlobCorrupt):
        store.get(digest)
    with pytest.raises(BlobCorrupt):
        BlobStore(path.parents[2]).path(digest)


def test_putting_heals_a_corrupt_file(store: BlobStore) -> None:
    digest = store.put(b"weights")
    alter(store.path(digest), mtime_ns=LONG_AGO_NS)
    store.put(b"weights")
    assert store.get(digest) == b"weights"
    assert store.path(digest).read_bytes() == b"weights"


def test_a_removed_blob_is_gone_and_removing_again_is_done_already(store: BlobStore) -> None:
    digest = store.put(b"weights")
    os.utime(store.path(digest), ns=(LONG_AGO_NS, LONG_AGO_NS))
    path = store.path(digest)
    assert store.remove(digest) is True
    assert not path.exists()
    assert store.remove(digest) is False
    for read in (store.path, store.get, store.size):
        with pytest.raises(BlobMissing, match=digest):
            read(digest)


def test_an_unmounted_store_proves_no_absence(tmp_path: Path) -> None:
    with pytest.raises(BlobNotRemoved, match="mounted"):
        BlobStore(tmp_path).remove(digest_of(b"weights"))


def test_what_cannot_be_unlinked_is_never_called_absent(store: BlobStore) -> None:
    path = store.path(store.put(b"weights"))
    path.unlink()
    path.mkdir()
    with pytest.raises(BlobNotRemoved) as caught:
        store.remove(path.name)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(BlobNotWritten):
        store.put(b"weights")
    with pytest.raises(BlobCorrupt):
        store.get(path.name)


@pytest.mark.parametrize(
    "text", ["", "ab", "../" * 20 + "abcd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "é" * 64, "٣" * 64]
)
def test_what_is_not_a_digest_never_becomes_a_path(store: BlobStore, text: str) -> None:
    for call in (store.path, store.get, store.has, store.size, store.remove, parse_digest):
        with pytest.raises(DigestMalformed):
            call(text)


@given(text=st.text(alphabet="0123456789abcdefAg٣\n", min_size=63, max_size=65))
def test_a_digest_is_64_lower_case_hexadecimal_digits(text: str) -> None:
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    try:
        assert parse_digest(text) == text
    except DigestMalformed:
        assert not is_digest
    else:
        assert is_digest


def test_foreign_files_are_not_listed(store: BlobStore) -> None:
    digest = store.put(b"weights")
    shelf = store.path(digest).parent
    (shelf / ".nfs0001").touch()
    (shelf / (("0" if digest[0] != "0" else "1") * 64)).touch()
    assert list(store.digests()) == [digest]


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_a_path_and_its_file_url_open_one_store(tmp_path: Path, prefix: str) -> None:
    root = tmp_path / "a store"
    name = str(root) if prefix == "" else str(root).replace(" ", "%20")
    digest = open_store(prefix + name).put(b"weights")
    assert BlobStore(root).get(digest) == b"weights"


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/x", "simplecache::s3://b", "memory://", "file:x"])
def test_a_store_that_is_not_a_directory_is_refused_and_its_credentials_are_not_repeated(url: str) -> None:
    with pytest.raises(StoreUrlRefused, match="not there yet") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "/", "file:///", "file://localhost/"])
def test_a_store_url_without_a_directory_is_refused(url: str) -> None:
    with pytest.raises(StoreUrlRefused, match="no directory"):
        open_store(url)
