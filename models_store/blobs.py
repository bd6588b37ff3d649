"""Content-addressed blobs in a local directory: `root/blobs/ab/abcdef...`, the name is the SHA-256.

Promises: a visible blob is whole and durable (written aside, flushed, read again, renamed, directory
flushed); `path` and `get` never hand out bytes that differ from the digest; `remove` returns only once
absence is proven.

Never counts references. They live in the database (`app.services`): a caller registers the reference row
before it relies on a blob, whether `put` wrote it or found it, and unlinks under the same write lock. Without
that order a purge takes a blob away from a publisher that has just found it.

Never builds a path from anything but a checked digest.
"""

import hashlib
import os
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, NewType
from urllib.parse import unquote

from models_store.durable import flush_directory, make_directory, unlink, unlink_abandoned, written_new
from models_store.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobNotRemoved,
    BlobNotWritten,
    DigestMalformed,
    StoreUrlRefused,
)

Digest = NewType("Digest", str)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_VERIFIED_LIMIT = 4096

# File systems stamp changes as coarsely as 2 s: a younger file may still change without a new mtime.
_MTIME_GRAIN_NS = 2_000_000_000


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest, or raise DigestMalformed."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise DigestMalformed(f"not a SHA-256 digest in lower-case hexadecimal: {text!r:.80}")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """The name of these bytes."""
    return Digest(hashlib.sha256(data).hexdigest())


def open_store(store_url: str) -> "BlobStore":
    """Open the store named by `settings.store_url`: a plain path or a `file://` URL."""
    if not _URL_SCHEME.match(store_url):
        path = store_url
    elif store_url.startswith(("file:///", "file://localhost/")):
        path = unquote("/" + store_url.split("/", maxsplit=3)[3])
    else:
        # The URL may carry credentials, so only its scheme is repeated.
        scheme = store_url.partition(":")[0]
        raise StoreUrlRefused(f"store_url {scheme}: is not supported; S3 and fsspec stores are not there yet")
    if not path.strip("/"):
        raise StoreUrlRefused("store_url names no directory")
    return BlobStore(path)


class _Fingerprint(NamedTuple):
    """What tells one state of a file from another without reading it."""

    inode: int
    size: int
    mtime_ns: int


class BlobStore:
    """Blobs under one directory. Safe to share between threads and with other processes."""

    def __init__(self, root: str | Path) -> None:
        """Touch nothing yet: the directories are made by the first `put`."""
        self._root = Path(root).absolute()
        self._blobs = self._root / "blobs"
        self._temporary = self._root / "tmp"  # on the same file system, or the rename would be a copy
        self._verified: OrderedDict[Digest, _Fingerprint] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, data: bytes) -> Digest:
        """Make `data` durable under its digest; raises BlobNotWritten. A corrupt file there is replaced."""
        digest = digest_of(data)
        try:
            if self._is_intact(digest):
                # Another process may have renamed it a moment ago without having flushed the directory yet.
                flush_directory(self._place(digest).parent)
            else:
                self._write(digest, data)
        except (OSError, BlobCorrupt) as error:
            raise BlobNotWritten(f"blob {digest} ({len(data)} bytes) was not stored: {error}") from error
        return digest

    def path(self, digest: str) -> Path:
        """Where the verified blob lies, to be served; hashed once per (inode, size, mtime), not per call."""
        checked = parse_digest(digest)
        with self._open(checked) as file:
            status = os.fstat(file.fileno())
            # Taken before hashing: a change meanwhile shows as another fingerprint at the next call.
            seen = _Fingerprint(status.st_ino, status.st_size, status.st_mtime_ns)
            if not self._is_verified(checked, seen):
                _require_digest(checked, actual=_hash(file))
                self._remember(checked, seen)
        return self._place(checked)

    def get(self, digest: str) -> bytes:
        """The bytes. Those returned are those hashed, so no cache is asked."""
        checked = parse_digest(digest)
        with self._open(checked) as file:
            data = file.read()
        _require_digest(checked, actual=digest_of(data))
        return data

    def has(self, digest: str) -> bool:
        """Whether a file lies under the digest; says nothing about its bytes."""
        return self._place(parse_digest(digest)).is_file()

    def size(self, digest: str) -> int:
        """Length in bytes, unverified."""
        with self._open(parse_digest(digest)) as file:
            return os.fstat(file.fileno()).st_size

    def remove(self, digest: str) -> bool:
        """Unlink and prove absence; False if it was absent already. Raises BlobNotRemoved.

        An empty mount point holds no blob either. It must not pass for proof, hence the look at `blobs/`.
        """
        checked = parse_digest(digest)
        if not self._blobs.is_dir():
            raise BlobNotRemoved(f"no blob was ever stored in {self._root}: is the store mounted?")
        self._forget(checked)
        try:
            return unlink(self._place(checked))
        except OSError as error:
            raise BlobNotRemoved(f"blob {checked} may still be there: {error}") from error

    def digests(self) -> Iterator[Digest]:
        """Every digest that has a file, in order; unverified. Foreign files are passed over."""
        for place in sorted(self._blobs.glob("??/*")):
            if _DIGEST.fullmatch(place.name) and place.parent.name == place.name[:2]:
                yield Digest(place.name)

    def sweep_temporary(self, older_than_seconds: float = 0.0) -> int:
        """Remove what killed writers left behind and say how many files; a live writer locks its own."""
        newest_ns = time.time_ns() - int(older_than_seconds * 1e9)
        num_removed = 0
        for left_over in self._temporary.glob("*"):
            with suppress(FileNotFoundError):
                if left_over.stat().st_mtime_ns <= newest_ns:
                    num_removed += unlink_abandoned(left_over)
        return num_removed

    def _place(self, digest: Digest) -> Path:
        return self._blobs / digest[:2] / digest

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[BufferedReader]:
        try:
            with self._place(digest).open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise BlobMissing(f"no blob {digest}") from error
        except OSError as error:
            raise BlobCorrupt(f"blob {digest} cannot be read: {error}") from error

    def _is_intact(self, digest: Digest) -> bool:
        try:
            with self._open(digest) as file:
                return _hash(file) == digest
        except (BlobMissing, BlobCorrupt):
            return False

    def _write(self, digest: Digest, data: bytes) -> None:
        place = self._place(digest)
        make_directory(place.parent)
        make_directory(self._temporary)
        temporary = self._temporary / uuid.uuid4().hex
        try:
            with written_new(temporary, data=data), temporary.open("rb") as file:
                _require_digest(digest, actual=_hash(file))
                temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        flush_directory(place.parent)

    def _is_verified(self, digest: Digest, seen: _Fingerprint) -> bool:
        with self._lock:
            return self._verified.get(digest) == seen

    def _remember(self, digest: Digest, seen: _Fingerprint) -> None:
        if time.time_ns() - seen.mtime_ns < _MTIME_GRAIN_NS:
            return
        with self._lock:
            self._verified[digest] = seen
            self._verified.move_to_end(digest)
            if len(self._verified) > _VERIFIED_LIMIT:
                self._verified.popitem(last=False)

    def _forget(self, digest: Digest) -> None:
        with self._lock:
            self._verified.pop(digest, None)


def _hash(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _require_digest(digest: Digest, *, actual: str) -> None:
    if actual != digest:
        raise BlobCorrupt(f"blob {digest} holds bytes that hash to {actual}")
