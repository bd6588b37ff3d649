"""Retraining beside the last exact run: what a record still changes, when to stop, and the stitch.

P_k are the weights after block k of the last exact run, P'_k those of the retraining without the forgotten
records (He et al. 2021, arXiv 2105.06209, sections 4.2 to 4.4):

    residual memory   Delta_k = || (P_k - P_{k-1}) - (P'_k - P'_{k-1}) ||_1
    stitch            P'_B ~= P'_k + (P_B - P_k)

Promises: only parameters are stitched; buffers stay those of the retrained side. Never: an optimizer state,
so nothing that was stitched can be trained on.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from app.domain.policy import StitchRule
from worker.unlearners.decay import Ruling, rule_on

Weights = Mapping[str, Tensor]
UNMEASURED = Ruling(stops=False, why="nothing was measured")


class ReferenceMissing(Exception):
    """The weights of the last exact run after some block are not there."""


class References(Protocol):
    """The weights of the last exact run."""

    def after(self, position: int) -> Weights:
        """Return the weights after a block, on the device of the job.

        Raises:
            ReferenceMissing: they were not kept.
        """
        ...


@dataclass
class Retraining:
    """One shard's retraining: measured after every block, ruled on after the last touched one.

    ``touched`` are the positions of the blocks that held forgotten records. ``residuals`` begin at the first
    of them, and so do the fitted points at the last: each touched block is a new disturbance.
    """

    references: References
    rule: StitchRule
    touched: Sequence[int]
    residuals: list[float] = field(default_factory=list)
    ruling: Ruling = UNMEASURED
    _own_before: dict[str, Tensor] = field(init=False, default_factory=dict)
    _reference_before: Weights = field(init=False, default_factory=dict)

    def before_first(self, net: nn.Module) -> None:
        """Note the weights that the first block starts from."""
        self._own_before = self._reference_before = parameters_of(net)

    def after_block(self, position: int, net: nn.Module) -> Ruling:
        """Measure a block that was retrained and say whether to stop here.

        Raises:
            ReferenceMissing: there is nothing to measure it against.
        """
        own = parameters_of(net)
        if position < self.touched[0]:
            self._own_before = self._reference_before = own  # nobody was left out yet: both runs are one
            return self.ruling
        reference = self.references.after(position)
        self.residuals.append(
            residual_memory(self._reference_before, reference, own_before=self._own_before, own=own)
        )
        self._own_before, self._reference_before = own, reference
        if position >= self.touched[-1]:
            self.ruling = rule_on(self.points, self.rule)
        return self.ruling

    @property
    def points(self) -> list[float]:
        """The residuals from the last touched block on."""
        return self.residuals[self.touched[-1] - self.touched[0] :]


def parameters_of(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters by name; buffers are not weights that training moved."""
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def residual_memory(
    reference_before: Weights, reference: Weights, *, own_before: Weights, own: Weights
) -> float:
    """Return Delta_k: the L1 distance between what one block changed in the two runs, in float64."""
    parts = [
        (reference[name].double() - reference_before[name].double())
        .sub_(tensor.double() - own_before[name].double())
        .abs_()
        .sum()
        for name, tensor in own.items()
    ]
    return float(torch.stack(parts).sum())


@torch.no_grad()
def stitch(net: nn.Module, *, here: Weights, end: Weights) -> None:
    """Add to each parameter of ``net`` what the last exact run did from ``here`` to its ``end``, in place."""
    for name, parameter in net.named_parameters():
        moved = end[name].double() - here[name].double()
        parameter.copy_(parameter.double() + moved)


@torch.no_grad()
def estimate_batch_norm(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimate running means and variances anew, as plain averages over ``batches`` of inputs (N, *).

    A stitched variance can be negative. Only the normalising layers are in training mode meanwhile. Without a
    batch they stay as they are.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    batches = iter(batches)
    first = next(batches, None) if norms else None
    if first is None:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = net.training
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for inputs in itertools.chain([first], batches):
        net(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.train(was_training)


def fault_of(net: nn.Module) -> str:
    """Return what makes a stitched net unusable, or nothing."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} is not finite"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} is negative"
    return ""
