"""What a classifier of real digits reads in samples, and how far samples lie from real ones.

Shape suffixes: N images, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gradient.images import normalised
from benchmarks.gradient.training import trained_lenet
from worker.unlearners.gradient.records import TensorRecords


@dataclass(frozen=True)
class Judge:
    """A LeNet-5 that was trained on real digits; what it is shown lies in [-1, 1]."""

    net: nn.Module

    def right(self, images: Tensor, labels_N: Tensor) -> float:
        """Return the share in percent of images that are read as these labels."""
        with torch.no_grad():
            return 100 * float((self.net(_as_real(images)).argmax(1) == labels_N).double().mean())

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer is given (N, F), as float64."""
        seen: list[Tensor] = []
        (*_, last) = (module for module in self.net.modules() if isinstance(module, nn.Linear))
        handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.no_grad():
            self.net(_as_real(images))
        handle.remove()
        return seen[0].double()


def judge_of(records: TensorRecords, *, seed: int) -> Judge:
    """Return the classifier that fits these real digits."""
    real = TensorRecords(_as_real(records.all_inputs), records.all_targets)
    return Judge(trained_lenet(real, seed).eval())


def frechet(first_NF: Tensor, second_NF: Tensor) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances (Heusel et al. 2017).

    It grows as either set gets smaller, so compare it only with one of sets of the same sizes.
    """
    means = first_NF.mean(0) - second_NF.mean(0)
    first_FF, second_FF = (each.T.cov() for each in (first_NF, second_NF))
    values_F, vectors_FF = torch.linalg.eigh(first_FF)
    root_FF = (vectors_FF * values_F.clamp_min(0).sqrt()) @ vectors_FF.T
    shared_F = torch.linalg.eigvalsh(root_FF @ second_FF @ root_FF).clamp_min(0).sqrt()
    return float(means @ means + first_FF.trace() + second_FF.trace() - 2 * shared_F.sum())


def _as_real(images: Tensor) -> Tensor:
    """From [-1, 1] to what the classifier of the scenarios takes."""
    return normalised((images + 1) / 2)
