"""A mark beside a data file: how many of its rows were committed as records once.

Promises: a mark rises and never falls, in one step that is synced. Whoever is killed before it leaves a lower
one, which says less and nothing wrong. Never: a mark above what a database has committed.
"""

import os
from pathlib import Path

from models_store.durable import flush_directory, written_new

MARK_FILE = "committed_rows"


def read_mark(folder: Path) -> int:
    """Return the mark in a dataset's folder; 0 where there is none.

    Raises:
        ValueError: it is not a number.
        OSError: it cannot be read.
    """
    path = folder / MARK_FILE
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        raise ValueError(f"{path} is not a number of rows") from None


def raise_mark(folder: Path, *, num_rows: int) -> None:
    """Put a mark in the place of a lower one; the caller keeps others from doing so meanwhile."""
    if num_rows <= read_mark(folder):
        return
    begun = folder / f"{MARK_FILE}.begun"
    begun.unlink(missing_ok=True)
    with written_new(begun, data=str(num_rows).encode()):
        os.replace(begun, folder / MARK_FILE)
    flush_directory(folder)
