"""Optimizers and learning-rate schedules as the recipe names them."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from worker.training.eager import eager
from worker.training.recipe import AdamwPart, OptimizerPart, SchedulePart, SgdPart

_EagerSGD, _EagerAdamW = eager(SGD), eager(AdamW)


def build_optimizer(part: OptimizerPart, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the optimizer; which kernels it uses is fixed by the recipe, because they shape bits."""
    foreach, fused = part.implementation == "foreach", part.implementation == "fused"
    match part:
        case SgdPart():
            return _EagerSGD(
                parameters,
                lr=part.learning_rate,
                momentum=part.momentum,
                nesterov=part.nesterov,
                weight_decay=part.weight_decay,
                foreach=foreach,
                fused=fused,
            )
        case AdamwPart():
            return _EagerAdamW(
                parameters,
                lr=part.learning_rate,
                betas=part.betas,
                eps=part.eps,
                weight_decay=part.weight_decay,
                foreach=foreach,
                fused=fused,
            )


def learning_rate(optimizer: OptimizerPart, schedule: SchedulePart, *, step: int, num_steps: int) -> float:
    """Return the learning rate of a schedule step in [0, num_steps).

    ``num_steps`` is the recipe's number, never the number of steps really taken.
    """
    match schedule.name:
        case "constant":
            return optimizer.learning_rate
        case "linear":
            share = 1.0 - step / num_steps
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
    floor = schedule.final_share
    return optimizer.learning_rate * (floor + (1.0 - floor) * share)
