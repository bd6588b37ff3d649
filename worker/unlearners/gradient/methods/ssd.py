"""Selective Synaptic Dampening: shrink the weights that matter far more to the forgotten than to everybody.

Foster et al. 2024, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening" (arXiv
2308.07707): where I_f > alpha I_D, theta <- min(lambda I_D / I_f, 1) theta. Importance is the mean of the
squared gradients of single records, of the forgotten (I_f) and of all records (I_D).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.domain.methods import SsdSettings
from worker.unlearners.gradient.edit import Statistics
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side, Sides
from worker.unlearners.gradient.statistics import mean_squares


def factor(forget: Tensor, everybody: Tensor, *, selection: float, dampening: float) -> Tensor:
    """Return what each weight is multiplied with, in [0, 1]; 1 where it is not selected."""
    is_selected = forget > selection * everybody
    shrunk = (dampening * everybody / forget.where(is_selected, torch.ones_like(forget))).clamp_max(1.0)
    return shrunk.where(is_selected, torch.ones_like(forget))


@dataclass(frozen=True)
class Dampen:
    """The edit. All records are the forgotten and the retained together, so neither is met twice."""

    settings: SsdSettings

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Return the importance to the forgotten and to everybody."""
        loss, num_forget, num_retain = CrossEntropy(), len(sides[Side.FORGET]), len(sides[Side.RETAIN])
        forget, retain = (mean_squares(net, loss, sides[side]) for side in (Side.FORGET, Side.RETAIN))
        share = num_forget / (num_forget + num_retain)
        everybody = {name: share * value + (1 - share) * retain[name] for name, value in forget.items()}
        return {"forget": forget, "everybody": everybody}

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Dampen."""
        for name, forget in statistics["forget"].items():
            net.get_parameter(name).mul_(
                factor(
                    forget,
                    statistics["everybody"][name],
                    selection=self.settings.selection,
                    dampening=self.settings.dampening,
                )
            )


def prepare(task: Task, settings: SsdSettings) -> Prepared:
    """Return the edit; everything is measured when it runs."""
    return Prepared(net=task.net, work=Dampen(settings))


SSD = Method(
    name="ssd",
    source="Foster et al. 2024, arXiv 2308.07707",
    settings=SsdSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
