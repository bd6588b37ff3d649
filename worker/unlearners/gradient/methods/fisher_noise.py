"""Noise where the retained records do not mind it: theta <- theta + strength F_r^(-1/4) n, n standard normal.

Golatkar et al. 2020, "Eternal Sunshine of the Spotless Net" (arXiv 1911.04933). F_r is the diagonal of the
retained records' Fisher information, over the labels that the net itself expects of them: no label is read,
and no forgotten record. With labels of their own, fitted records would have nearly none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.domain.methods import FisherNoiseSettings
from worker.unlearners.gradient.edit import Statistics
from worker.unlearners.gradient.losses import Forward, widened
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Records, Side, Sides, seed_of
from worker.unlearners.gradient.statistics import Weights, mean_squares

TINY = 1e-12


@dataclass(frozen=True)
class Expected:
    """sqrt(p) (-log p) of one label, p held fixed in the root: its squares, over all labels, add up to F."""

    label: int
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the label once for each record (B,)."""
        return torch.full((len(indices_B),), self.label, device=inputs.device)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        logs_B = widened(forward(inputs)).log_softmax(-1).gather(-1, aims.unsqueeze(-1)).squeeze(-1)
        return -(logs_B.detach() / 2).exp() * logs_B


def fisher_diagonal(net: nn.Module, records: Records, *, num_classes: int) -> Weights:
    """Return mean_i sum_k p_k (grad log p_k)^2 for each weight: a pass over the records for each label."""
    parts = [mean_squares(net, Expected(label), records) for label in range(num_classes)]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def deviation(fisher: Tensor, *, strength: float, most: float) -> Tensor:
    """Return the standard deviation of each weight's noise."""
    return (strength * (fisher + TINY) ** -0.25).clamp_max(most)


@dataclass(frozen=True)
class AddNoise:
    """The edit; the noise is a function of the seed and of each weight's name."""

    settings: FisherNoiseSettings
    num_classes: int
    seed: int

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Return the Fisher diagonal of the retained."""
        return {"retain": fisher_diagonal(net, sides[Side.RETAIN], num_classes=self.num_classes)}

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Add the noise."""
        for name, fisher in statistics["retain"].items():
            generator = torch.Generator().manual_seed(seed_of(self.seed, "fisher noise", name))
            noise = torch.randn(fisher.shape, generator=generator, dtype=torch.float64).to(fisher)
            spread = deviation(fisher, strength=self.settings.strength, most=self.settings.most)
            net.get_parameter(name).add_(spread * noise)


def prepare(task: Task, settings: FisherNoiseSettings) -> Prepared:
    """Return the edit; everything is measured when it runs."""
    return Prepared(net=task.net, work=AddNoise(settings, num_classes=task.num_classes, seed=task.seed))


FISHER_NOISE = Method(
    name="fisher_noise",
    source="Golatkar et al. 2020, arXiv 1911.04933",
    settings=FisherNoiseSettings,
    reads=frozenset({Reads.RETAIN}),
    prepare=prepare,
)
