"""File operations that are still true after a power cut.

Promises: when a function returns, what its docstring says survives; every doubt leaves as an OSError.

Never decides anything about blobs, and never hides a file that is half written: that is its caller's rename.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path


@contextmanager
def written_new(path: Path, *, data: bytes) -> Iterator[None]:
    """Write and flush a file that must not exist; its name is durable only after `flush_directory`.

    Within the block it is locked: whoever finds it unlocked knows that its writer was killed.
    """
    with _locked_new(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        yield


def unlink_abandoned(path: Path) -> bool:
    """Remove a file of `written_new` whose writer is dead, and say whether it was."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Another sweep may have been here first, and the name may belong to a new file.
        is_named = os.fstat(file.fileno()).st_nlink > 0
        if is_named:
            path.unlink()
    return is_named


def make_directory(path: Path) -> None:
    """Make a directory and those above it, each entry flushed, so that what lies in it can be found again."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable, and the absence of names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(path: Path) -> bool:
    """Remove a file, look again, and say whether it was there; FileExistsError if it still is."""
    existed = not is_absent(path)
    path.unlink(missing_ok=True)
    # Also when it was absent: whoever unlinked it may have been killed before the flush.
    if path.parent.is_dir():
        flush_directory(path.parent)
    if not is_absent(path):
        raise FileExistsError(f"{path.name} came back while it was removed")
    return existed


def _locked_new(path: Path) -> BufferedWriter:
    while True:
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        # Between the two calls somebody took it for abandoned: the name is free again.
        file.close()


def is_absent(path: Path) -> bool:
    """Proven absence: unlike `exists()`, lets any doubt (no permission, input/output error) out."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False
