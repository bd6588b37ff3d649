"""The images that are forgotten: raw ones through the service's own readers, normalised as a recipe would.

Shape suffixes: N images.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cifar import MEAN, STD, cifar_folder
from benchmarks.mnist import mnist_folder
from worker.data.sources import SourceOptions, SourceTable, read_source

SIZE = 28
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)


@dataclass(frozen=True)
class Images:
    """Inputs (N, C, H, W) and labels (N,), and how many of them a draw takes for what.

    Where the source has test images of its own (``is_test_N``), the unseen and the test records are drawn
    from those, and else from what is not trained on.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    is_test_N: Tensor
    num_training: int = 1_000
    num_gone: int = 100
    num_unseen: int = 300
    num_test: int = 2_000
    num_classes: int = 10


def digits() -> Images:
    """Return the digits of scikit-learn, 8 x 8, at 28 x 28; fewer than 500 are left to test on."""
    images, labels = _digits()
    return Images("digits", normalised(images), labels, torch.zeros(len(labels), dtype=torch.bool))


def drawn_digits(*, seed: int) -> tuple[Tensor, Tensor]:
    """Return all digits (N, 1, 28, 28) in [0, 1] and their labels (N,), in an order of the seed."""
    images, labels = _digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return images[order], labels[order]


def normalised(images: Tensor) -> Tensor:
    """Return digits in [0, 1] as the nets of the scenarios take them."""
    return images.sub(0.3).div(0.37)


def mnist() -> Images:
    """Return MNIST, of which a draw trains on 1 000.

    Raises:
        DataMissing: there is neither a folder nor a way to fetch one.
    """
    table = read_source(str(mnist_folder()), format="idx", options=SourceOptions())
    return Images("mnist", _normalised(table, MNIST_MEAN, MNIST_STD), *_labels(table))


def cifar(num_training: int = 50_000, *, num_unseen: int = 2_000) -> Images:
    """Return CIFAR-10, all of it unless told otherwise, and a tenth of what is trained on to forget.

    Raises:
        DataMissing: there is neither a folder nor a way to fetch one.
    """
    table = read_source(str(cifar_folder()), format="sheets", options=SourceOptions())
    return Images(
        "cifar", _normalised(table, MEAN, STD), *_labels(table), num_training=num_training,
        num_gone=num_training // 10, num_unseen=num_unseen, num_test=10_000 - num_unseen,
    )  # fmt: skip


def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1).div(16)
    return F.interpolate(images, size=SIZE, mode="bilinear"), torch.tensor(found.target)


def _normalised(table: SourceTable, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    raw = torch.tensor(table.features, dtype=torch.float32).div(255)
    shape = (1, len(mean), 1, 1)
    return raw.sub(torch.tensor(mean).reshape(shape)).div(torch.tensor(std).reshape(shape))


def _labels(table: SourceTable) -> tuple[Tensor, Tensor]:
    assert table.held_out is not None
    return torch.tensor(table.labels), torch.tensor(table.held_out)
