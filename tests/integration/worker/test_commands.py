"""The command ``expunge-worker`` where the database cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("command", [["work"], ["import", "digits"]], ids=" ".join)
def test_a_database_that_is_not_there_is_one_line_without_its_password(
    migrated_home: Path, command: list[str]
) -> None:
    url = "postgresql+psycopg://expunge:sekret@127.0.0.1:9/expunge"
    known = {**os.environ, "EXPUNGE_HOME": str(migrated_home), "EXPUNGE_DATABASE_URL": url}
    run = [sys.executable, "-m", "worker", *command]
    done = subprocess.run(run, cwd=ROOT, env=known, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("expunge-worker: the database cannot be used: connection failed")
    assert done.stderr.count("\n") == 1
    assert "sekret" not in done.stderr
