"""Where foreign errors become ours, once, and where a path is looked at before it is opened.

Promises one `SourceRefused` that names the path. Never reads content.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.data.sources.table import SourceRefused


@contextmanager
def foreign_errors(place: str | Path, *, errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raises OSError and the named `errors` of a library as SourceRefused about `place`."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        # strerror is the reason alone; str() of an OSError would name the path a second time.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceRefused(f"{place}: {reason}") from error


def existing(path: Path) -> Path:
    """`path`, when there is a file or a folder."""
    with foreign_errors(path):
        is_there = path.exists()
    if not is_there:
        raise SourceRefused(f"{path}: no such file or folder")
    return path


def regular_file(path: Path) -> Path:
    """`path`, when it is a file; a pipe or device would block or never end."""
    if existing(path).is_dir():
        raise SourceRefused(f"{path}: is a folder, a file is needed")
    if not path.is_file():
        raise SourceRefused(f"{path}: is not a regular file")
    return path
