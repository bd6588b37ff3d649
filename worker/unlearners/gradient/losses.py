"""Losses of single records: what a term takes the gradient of. Every one returns one number a record.

Losses are in nats and taken over log-softmax, never over raw logits; half-precision logits are widened first.

Shape suffixes: B records of a batch, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.unlearners.gradient.records import Records

Forward = Callable[..., Tensor]
"""A net, or a net with other weights: inputs (B, *), and what else it takes, -> logits (B, K)."""

Aims = Any
"""What records are compared with: a tensor (B, ...) or a named tuple of them; a loss knows its own form."""


class Loss(Protocol):
    """One loss a record. ``needs_targets`` says whether the records' own targets are asked for."""

    @property
    def needs_targets(self) -> bool:
        """Whether ``targets`` of the records are read."""
        ...

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Aims:
        """Return what each record is compared with, without a gradient: labels, or a teacher's answer."""
        ...

    def __call__(self, forward: Forward, inputs: Tensor, aims: Aims) -> Tensor:
        """Return the loss of each record (B,)."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """-log p(label), with the records' own labels."""

    needs_targets: bool = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the records' labels (B,)."""
        return records.targets(indices_B)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        return F.cross_entropy(widened(forward(inputs)), aims, reduction="none")


@dataclass(frozen=True)
class Relabelled:
    """-log p(other label): ``labels_N`` stand in the place of the records' own, which are not read."""

    labels_N: Tensor
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the labels put in their place (B,)."""
        return self.labels_N.index_select(0, indices_B.to(self.labels_N.device)).to(inputs.device)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        return F.cross_entropy(widened(forward(inputs)), aims, reduction="none")


@dataclass(frozen=True)
class RandomLabels:
    """-log p(label), the label drawn uniformly each time a record is met, among the others if so asked.

    It draws from torch's generator on the CPU, which the runner seeds before every step.
    """

    num_classes: int
    exclude_true: bool = False

    @property
    def needs_targets(self) -> bool:
        """Only to leave them out."""
        return self.exclude_true

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the drawn labels (B,)."""
        if not self.exclude_true:
            return torch.randint(self.num_classes, indices_B.shape).to(inputs.device)
        true_B = records.targets(indices_B)
        return (true_B + torch.randint(1, self.num_classes, indices_B.shape).to(true_B.device)) % (
            self.num_classes
        )

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        return F.cross_entropy(widened(forward(inputs)), aims, reduction="none")


@dataclass(frozen=True)
class NegativePreference:
    """2 / beta log(1 + (p(label) / q(label))^beta), with the original's share q (arXiv 2404.05868).

    Descending it is ascent on -log p with the weight 2 r / (1 + r), r = (p / q)^beta: 1 at the original, and
    nothing where the label has become unlikely. The original must be a net of its own, in eval mode.
    """

    original: nn.Module
    beta: float
    needs_targets: bool = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return log q (B, K) at the labels, and -inf elsewhere."""
        labels_B1 = records.targets(indices_B).unsqueeze(1)
        with torch.no_grad():
            logs_BK = widened(self.original(inputs)).log_softmax(-1)
        nothing_BK = torch.full_like(logs_BK, -torch.inf)
        return nothing_BK.scatter(1, labels_B1, logs_BK.gather(1, labels_B1))

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        before_B, labels_B = aims.max(-1)
        own_B = widened(forward(inputs)).log_softmax(-1).gather(1, labels_B.unsqueeze(1)).squeeze(1)
        return 2 / self.beta * F.softplus(self.beta * (own_B - before_B))


@dataclass(frozen=True)
class Divergence:
    """KL(teacher || net) of each record (Hinton et al. 2015), at a temperature; labels are not read.

    A batch's mean of it is torch's ``batchmean``. The teacher must be a net of its own, in eval mode.
    """

    teacher: nn.Module
    temperature: float = 1.0
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the teacher's log shares (B, K)."""
        with torch.no_grad():
            return (widened(self.teacher(inputs)) / self.temperature).log_softmax(-1)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the divergence of each record (B,)."""
        own_BK = (widened(forward(inputs)) / self.temperature).log_softmax(-1)
        return F.kl_div(own_BK, aims, reduction="none", log_target=True).sum(-1)


def each_of(aims: Aims, change: Callable[[Tensor], Tensor]) -> Aims:
    """Return aims of the same form, every tensor changed."""
    return change(aims) if isinstance(aims, Tensor) else type(aims)(*map(change, aims))


def widened(logits: Tensor) -> Tensor:
    """Return half-precision numbers as float32, others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
