"""The command that imports CIFAR-10's sheets: channel-first bytes in the data file, or nothing at all."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.db.session import reading
from app.db.tables import Dataset, Record
from app.settings import Settings, get_settings
from tests.support.sheets import write_folder
from worker.cli import app
from worker.data.data_files import Layout, open_data_file
from worker.installation import Installation, open_installation


@pytest.fixture
def own(migrated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A home that the command finds by the environment."""
    home = tmp_path / "home"
    shutil.copytree(migrated_home, home)
    monkeypatch.setenv("EXPUNGE_HOME", str(home))
    get_settings.cache_clear()
    opened = open_installation(Settings(home=home))
    yield opened
    opened.engine.dispose()
    get_settings.cache_clear()


def test_sheets_become_rows_of_bytes_with_the_test_sheet_held_out(own: Installation, tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, sizes=(4, 3), num_test=2)
    (tmp_path / "s.csv").write_text(
        "record_id,subject_id\n" + "".join(f"train-{n},kim\n" for n in range(7)) + "test-0,lee\ntest-1,lee\n"
    )
    command = ["import", str(tmp_path), "--name", "cifar", "--subjects", str(tmp_path / "s.csv")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    with reading(own.sessions) as session:
        dataset = session.query(Dataset).one()
        records = session.query(Record).order_by(Record.row).all()
    layout = Layout.from_json(dataset.layout)
    assert layout.shape == (3, 32, 32)
    rows = open_data_file(own.settings.data_folder, dataset.id, layout=layout).rows
    assert np.array_equal(rows["features"], images)
    assert rows["label"].tolist() == labels
    assert [record.is_held_out for record in records] == [False] * 7 + [True] * 2
    assert len({record.subject_ref for record in records}) == 2


def test_a_folder_that_does_not_fit_is_one_line_and_nothing_is_stored(
    own: Installation, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    (tmp_path / "train_lables.json").write_text("[0, 1, 2, 3, 44]")
    answer = CliRunner().invoke(app, ["import", str(tmp_path), "--name", "cifar"])
    assert answer.exit_code == 2
    assert "train_lables.json: label in row 4 is 44" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    with reading(own.sessions) as session:
        assert session.query(Dataset).count() == session.query(Record).count() == 0
    assert not list(own.settings.data_folder.glob("*"))
