"""Folders of data files whose import never ended: they hold records that nothing refers to.

An import holds a lock on its folder until its dataset is committed. Whoever gets the lock therefore knows
that the import has ended, and asks the database whether it ended well.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_COMMITTED = "committed"


@contextmanager
def importing_folder(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock meanwhile; it goes when what is done within fails."""
    descriptor = _locked(folder)
    try:
        yield
        (folder / _COMMITTED).touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def remove_abandoned(data_folder: Path, *, is_known: Callable[[str], bool]) -> list[str]:
    """Remove the folders of dead imports and return their names; a live one keeps its lock.

    A folder that was ever committed stays, whatever this database knows of it: it may be the wrong one.
    """
    removed = []
    for folder in sorted(data_folder.glob("dat_*")):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (folder / _COMMITTED).exists() and not is_known(folder.name):
                shutil.rmtree(folder)
                removed.append(folder.name)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return removed


def _locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return descriptor
        # Between the two calls somebody took it for abandoned.
        os.close(descriptor)
