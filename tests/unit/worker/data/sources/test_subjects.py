"""A CSV of subjects: one row a record, and nothing else."""

from pathlib import Path

import pytest

from worker.data.sources.subjects import read_subjects
from worker.data.sources.table import SourceRefused

RECORDS = ["r0", "r1"]
HEAD = "record_id,subject_id\n"


def read(tmp_path: Path, content: bytes) -> list[str] | None:
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    return read_subjects(path, record_ids=RECORDS)


def test_without_a_file_nobody_is_named() -> None:
    assert read_subjects(None, record_ids=RECORDS) is None


def test_subjects_come_in_the_order_of_the_records(tmp_path: Path) -> None:
    assert read(tmp_path, f'{HEAD}r1,"lee, ann"\r\nr0,kim\r\n'.encode()) == ["kim", "lee, ann"]


@pytest.mark.parametrize(("content", "fault"), [
    (b"", "no column 'record_id'; there is: nothing"),
    (b"record_id,person\nr0,kim\n", "no column 'subject_id'; there is: record_id, person"),
    (b"record_id,subject_id\nr0,kim\n", "no row for record_id 'r1'"),
    (b"record_id,subject_id\nr0,kim\nr1,lee\nr0,kim\n", "record_id 'r0' again in row 2"),
    (b"record_id,subject_id\nr0,kim\nr2,lee\n", "row 1 names a record that there is not: 'r2'"),
    (b"record_id,subject_id\nr0,kim\nr1\n", "row 1 is too short"),
    (b"record_id,subject_id\nr0,k\xff\n", "invalid start byte"),
    (b'record_id,subject_id\nr0,"kim"x\n', "expected after"),
])  # fmt: skip
def test_other_files_are_refused_with_the_row(tmp_path: Path, content: bytes, fault: str) -> None:
    with pytest.raises(SourceRefused, match=rf"s\.csv: .*{fault}"):
        read(tmp_path, content)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="gone: no such file"):
        read_subjects(tmp_path / "gone", record_ids=RECORDS)
