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


@pytest.mark.parametrize("command", ["work", "train"])
@pytest.mark.parametrize("package", ["torch", "pyarrow"])
def test_without_a_package_of_the_worker_a_command_says_what_to_install(package: str, command: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from worker.__main__ import main; main()"
    run = [sys.executable, "-c", program, command]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    told = f"expunge-worker: {package} is missing; install the worker: pip install 'expunge[worker]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_before_init_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "new"
    run = [sys.executable, "-m", "worker", "import", "digits"]
    known = {**os.environ, "EXPUNGE_HOME": str(home)}
    done = subprocess.run(run, cwd=ROOT, env=known, capture_output=True, text=True, timeout=60, check=False)
    told = f"expunge-worker: no database at {home / 'expunge.db'}: run `expunge init`\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert not home.exists()
