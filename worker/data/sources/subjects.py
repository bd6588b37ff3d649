"""Reads a CSV that says whose each record is, for sources that have no place for it themselves.

Promises a subject for every record and no row for any other. Never guesses one.
"""

import csv
from pathlib import Path

from worker.data.sources.files import foreign_errors, regular_file
from worker.data.sources.table import SourceRefused

COLUMNS = ("record_id", "subject_id")


def read_subjects(path: Path | None, *, record_ids: list[str]) -> list[str] | None:
    """The subject of each record, in the order of `record_ids`; None without a file.

    The first line names the columns `record_id` and `subject_id`; others may stand beside them.
    Rows are counted from 0 after it. Raises SourceRefused.
    """
    if path is None:
        return None
    with (
        foreign_errors(path, errors=(csv.Error, UnicodeDecodeError)),
        regular_file(path).open(encoding="utf-8", newline="") as file,
    ):
        lines = csv.DictReader(file, strict=True)
        names, rows = lines.fieldnames or [], list(lines)
    for name in COLUMNS:
        if name not in names:
            raise SourceRefused(f"{path}: no column {name!r}; there is: {', '.join(names) or 'nothing'}")
    owners = _owners(rows, known=set(record_ids), path=path)
    for record_id in record_ids:
        if record_id not in owners:
            raise SourceRefused(f"{path}: no row for record_id {record_id!r}")
    return [owners[record_id] for record_id in record_ids]


def _owners(rows: list[dict[str, str | None]], *, known: set[str], path: Path) -> dict[str, str]:
    owners: dict[str, str] = {}
    for row, values in enumerate(rows):
        record_id, subject_id = (values[name] for name in COLUMNS)
        if record_id is None or subject_id is None:
            raise SourceRefused(f"{path}: row {row} is too short")
        if record_id not in known:
            raise SourceRefused(f"{path}: row {row} names a record that there is not: {record_id!r:.60}")
        if record_id in owners:
            raise SourceRefused(f"{path}: record_id {record_id!r} again in row {row}")
        owners[record_id] = subject_id
    return owners
