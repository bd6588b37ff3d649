"""Boundary Shrink: the forgotten take the label across their nearest boundary.

Chen et al. 2023, "Boundary Unlearning" (arXiv 2303.11570). No retained record is read, so nothing holds the
others back: few and small steps.

Shape suffixes: B records of a chunk, N forgotten records, K classes.
"""

import torch
from torch import Tensor, nn

from app.domain.methods import BoundaryShrinkSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, forget_epoch
from worker.unlearners.gradient.losses import CrossEntropy, Relabelled, widened
from worker.unlearners.gradient.method import Method, MethodDoesNotFit, Prepared, Reads, Task
from worker.unlearners.gradient.records import Records, Side, chunks
from worker.unlearners.gradient.statistics import untouched

CHUNK_RECORDS = 256


def prepare(task: Task, settings: BoundaryShrinkSettings) -> Prepared:
    """Return epochs of [CE_f(label across the boundary)]; the labels are found with the original net."""
    labels_N = labels_across(task.net, task.sides[Side.FORGET], step=settings.step)
    forget = forget_epoch(task, settings, Term(Side.FORGET, Relabelled(labels_N)))
    return Prepared(net=task.net, work=epoch_course([forget], settings))


def labels_across(net: nn.Module, records: Records, *, step: float) -> Tensor:
    """Return the labels (N,) that inputs get a step of the fast gradient sign away, never their own.

    The step is a share of the range of these inputs, channel by channel, and does not leave it.

    Raises:
        MethodDoesNotFit: the inputs are not real numbers, so they have no gradient.
    """
    low, high = input_range(records)
    found = []
    with untouched(net):
        for indices_B in chunks(records, size=CHUNK_RECORDS):
            inputs, labels_B = records.inputs(indices_B), records.targets(indices_B)
            away = _uphill(net, inputs, labels_B)
            moved = torch.clamp(inputs + step * (high - low) * away, low, high)
            with torch.no_grad():
                logits_BK = widened(net(moved))
            found.append(logits_BK.scatter(1, labels_B.unsqueeze(1), -torch.inf).argmax(1))
    return torch.cat(found)


def input_range(records: Records) -> tuple[Tensor, Tensor]:
    """Return the least and the largest input of each channel, (1, C, 1, ...)."""
    lows, highs = [], []
    for indices_B in chunks(records, size=CHUNK_RECORDS):
        inputs = records.inputs(indices_B)
        if not inputs.is_floating_point():
            raise MethodDoesNotFit(f"the inputs must be real numbers to have a gradient, not {inputs.dtype}")
        others = [dim for dim in range(inputs.ndim) if dim != 1]
        lows.append(inputs.amin(others, keepdim=True))
        highs.append(inputs.amax(others, keepdim=True))
    return torch.cat(lows).amin(0, keepdim=True), torch.cat(highs).amax(0, keepdim=True)


def _uphill(net: nn.Module, inputs: Tensor, labels_B: Tensor) -> Tensor:
    """Return the signs of the gradient of the loss with respect to the inputs."""
    free = inputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(CrossEntropy()(net, free, labels_B).sum(), free)
    return gradient.sign()


BOUNDARY_SHRINK = Method(
    name="boundary_shrink",
    source="Chen et al. 2023, arXiv 2303.11570",
    settings=BoundaryShrinkSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS}),
    prepare=prepare,
)
