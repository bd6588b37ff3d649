"""Paths that cannot be read, and errors of libraries, become one refusal."""

import os
from pathlib import Path

import pytest

from worker.data.sources.files import existing, foreign_errors, regular_file
from worker.data.sources.table import SourceRefused


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", "/x"), "Permission denied"),
        (OSError("Could not decode"), "Could not decode"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_foreign_error_is_wrapped_once_with_its_cause(error: Exception, reason: str) -> None:
    with pytest.raises(SourceRefused) as refusal, foreign_errors("f.npz", errors=(KeyError,)):
        raise error
    assert str(refusal.value) == f"f.npz: {reason}"
    assert refusal.value.__cause__ is error


def test_an_error_that_was_not_named_passes() -> None:
    with pytest.raises(ZeroDivisionError), foreign_errors("f.npz", errors=(KeyError,)):
        raise ZeroDivisionError


@pytest.mark.parametrize("look", [existing, regular_file])
def test_a_missing_path_is_refused(tmp_path: Path, look) -> None:
    with pytest.raises(SourceRefused, match=r"gone\.npz: no such file or folder"):
        look(tmp_path / "gone.npz")


def test_a_path_the_system_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="File name too long"):
        existing(tmp_path / ("x" * 5000))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert existing(tmp_path) == tmp_path
    with pytest.raises(SourceRefused, match="is a folder, a file is needed"):
        regular_file(tmp_path)


def test_a_pipe_is_refused_before_it_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceRefused, match="pipe: is not a regular file"):
        regular_file(tmp_path / "pipe")
