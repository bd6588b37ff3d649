"""Figures of nets beside each other. None of them is proof of forgetting.

Shape suffixes: N images, K classes.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Two-sided 95 % quantiles of Student's t for 2 to 10 degrees of freedom.
_STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
_CHUNK = 1_000

Arrays = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Outputs:
    """Log probabilities (N, K) of a net on fixed images with labels (N,)."""

    log_shares_NK: Tensor
    labels_N: Tensor

    @classmethod
    def from_arrays(cls, arrays: "Arrays") -> "Outputs":
        """Undo ``to_arrays``."""
        return cls(*map(torch.from_numpy, arrays))

    def to_arrays(self) -> "Arrays":
        """Return the same for another process: tensors would lose their memory when this one ends."""
        return self.log_shares_NK.numpy(), self.labels_N.numpy()

    @property
    def accuracy(self) -> float:
        """Percent of images whose label is the likeliest."""
        return 100 * float((self.log_shares_NK.argmax(1) == self.labels_N).double().mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(F.nll_loss(self.log_shares_NK, self.labels_N))

    def disagreement(self, other: "Outputs") -> float:
        """Return the percentage of images on which both predict different classes."""
        return 100 * float((self.log_shares_NK.argmax(1) != other.log_shares_NK.argmax(1)).double().mean())

    def divergence_from(self, exact: "Outputs") -> float:
        """Return the mean KL divergence KL(exact || this) in nats."""
        return float(
            F.kl_div(self.log_shares_NK, exact.log_shares_NK, reduction="batchmean", log_target=True)
        )


@torch.no_grad()
def outputs_of(net: nn.Module, inputs: Tensor, labels_N: Tensor) -> Outputs:
    """Return what a net says in evaluation mode; its mode is kept."""
    was_training = net.training
    net.eval()
    parts = [F.log_softmax(net(part).double(), dim=1) for part in inputs.split(_CHUNK)]
    net.train(was_training)
    return Outputs(torch.cat(parts).cpu(), labels_N.cpu())


def between(outputs: Sequence[Outputs]) -> tuple[list[float], list[float]]:
    """Return disagreement (percent) and divergence (nats) of every pair: how far exact ones lie apart."""
    pairs = list(itertools.combinations(outputs, 2))
    return [a.disagreement(b) for a, b in pairs], [a.divergence_from(b) for a, b in pairs]


def distance(one: nn.Module, other: nn.Module) -> float:
    """Return the L2 distance of all parameters."""
    squares = [
        (a.detach().double() - b.detach().double()).square().sum()
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    ]
    return float(torch.stack(squares).sum().sqrt())


def clustered_interval(values: Sequence[float], clusters: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, the means of clusters (seeds) being what varies.

    Student's t over the clusters' means; for equal clusters that is the usual cluster-robust interval.
    """
    means = [
        statistics.fmean(v for v, c in zip(values, clusters, strict=True) if c == cluster)
        for cluster in sorted(set(clusters))
    ]
    if len(means) < 3:
        return float(np.min(means)), float(np.max(means))
    half = _STUDENT[min(len(means) - 1, 10)] * statistics.stdev(means) / len(means) ** 0.5
    return statistics.fmean(means) - half, statistics.fmean(means) + half
