"""What sealing must know of records beyond the database: their labels, and a copy with changes.

Record bytes lie where workers are. A process without them seals deletions of subjects and leaves the rest.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from app.domain.changes import Changes
from app.domain.terms import DatasetId, JsonObject


class Contents(Protocol):
    """The data files of an installation; ``layout`` is what the dataset's row keeps."""

    def labelled(self, dataset_id: DatasetId, *, layout: JsonObject, label: int) -> Sequence[int]:
        """Return the rows with this label, in order; erased ones read as label 0.

        Raises:
            ValueError: the file is not a whole number of rows.
            OSError: it cannot be read.
        """
        ...

    def require_usable(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> None:
        """Look whether the file can be written and has these rows, and only whole ones.

        Raises:
            ValueError: it has fewer, or part of one.
            OSError: the file cannot be read or written.
        """
        ...

    def alone(self, dataset_id: DatasetId) -> AbstractContextManager[None]:
        """Keep others from writing a copy, and from erasing copies, until the block ends.

        Raises:
            OSError: the file cannot be opened or locked.
        """
        ...

    def num_committed(self, dataset_id: DatasetId) -> int:
        """Return how many rows are known to have been committed once; 0 where that is not known.

        Raises:
            ValueError, OSError: the mark beside the file cannot be read.
        """
        ...

    def note_committed(self, dataset_id: DatasetId, *, num_rows: int) -> None:
        """Note, after the commit, that so many rows are records; a mark that is higher stays.

        Raises:
            ValueError, OSError: the mark beside the file cannot be read or written.
        """
        ...

    def has_copies(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> bool:
        """Whether anything but zeros lies behind so many rows; not where there is no file.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def erase_copies(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> None:
        """Zero what lies behind so many rows, and sync.

        Raises:
            OSError: the file cannot be read or written.
        """
        ...

    def write_changed(
        self,
        dataset_id: DatasetId,
        *,
        layout: JsonObject,
        row: int,
        digest: bytes,
        changes: Changes,
        at: int,
    ) -> bytes:
        """Write a copy of ``row`` with these changes as row ``at``, sync, and return its content digest.

        Writing the same twice is once. ``digest`` is what the content of ``row`` must have.

        Raises:
            ValueError: the row is not what was imported, or ``at`` lies beyond the end.
            OSError: the file cannot be read or written.
        """
        ...
