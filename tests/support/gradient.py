"""Nets, records and losses on which courses have closed forms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.training.recipe import SgdPart
from worker.unlearners.gradient.losses import Forward
from worker.unlearners.gradient.records import Records, TensorRecords


class Point(nn.Module):
    """A net that is its weights: any inputs (B, *) -> theta (B, d)."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return theta once for each record."""
        return self.theta.expand(len(inputs), -1)


@dataclass(frozen=True)
class Slope:
    """u . theta for every record."""

    u: Tensor
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return u once for each record."""
        return self.u.expand(len(indices_B), -1)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        return (forward(inputs) * aims).sum(1)


@dataclass(frozen=True)
class Bowl:
    """(theta - bottom)^T H (theta - bottom) / 2 for every record."""

    bottom: Tensor
    hessian: Tensor
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the bottom once for each record."""
        return self.bottom.expand(len(indices_B), -1)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        off = forward(inputs) - aims
        return ((off @ self.hessian) * off).sum(1) / 2


def plain_sgd(learning_rate: float = 1.0, *, momentum: float = 0.0, weight_decay: float = 0.0) -> SgdPart:
    """Return plain gradient descent."""
    return SgdPart(name="sgd", learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)


def blobs(
    num: int = 60, *, num_classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> TensorRecords:
    """Return records of classes that lie apart: inputs (num, 4)."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(num) % num_classes
    centres_KD = 2.0 * torch.eye(num_classes, 4, dtype=dtype)
    noise_ND = 0.5 * torch.randn(num, 4, generator=generator, dtype=dtype)
    return TensorRecords(centres_KD[labels_N] + noise_ND, labels_N)


def small_net(*, seed: int = 0, num_classes: int = 3, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a net with BatchNorm and dropout: (N, 4) -> (N, K)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, num_classes)
    ).to(dtype)
