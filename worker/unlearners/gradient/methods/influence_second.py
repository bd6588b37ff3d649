"""Second-order influence: one Newton step from the weights to those that the remaining records ask for.

Warnecke et al. 2021, "Machine Unlearning of Features and Labels" (arXiv 2108.11577): theta <- theta + H^-1
(sum of gradients of the erased, less that of the corrected), H over the records that training would have now.
Where the loss is quadratic this is retraining; elsewhere it is as far off as the square of what changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.domain.methods import InfluenceSecondSettings
from worker.unlearners.gradient.edit import Statistics
from worker.unlearners.gradient.influence import changed_gradient, curvature, flat, solve_damped
from worker.unlearners.gradient.losses import CrossEntropy, Loss
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Records, Side, Sides


@dataclass(frozen=True)
class NewtonStep:
    """The edit. ``corrected`` stand in the forgotten records' place: other features, or other labels.

    They are among the retained already.
    """

    settings: InfluenceSecondSettings
    loss: Loss
    corrected: Records | None = None

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Return the step."""
        changed = changed_gradient(net, self.loss, sides[Side.FORGET], self.corrected)
        retained = sides[Side.RETAIN]
        step_P = solve_damped(
            lambda damping: curvature(net, self.loss, retained, damping=damping),
            flat(changed.values()) / len(retained),
            damping=self.settings.damping,
            tolerance=self.settings.tolerance,
            steps=self.settings.steps,
        )
        return {"step": _shaped(step_P, changed)}

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Take it."""
        for name, value in statistics["step"].items():
            net.get_parameter(name).add_(value)


def prepare(task: Task, settings: InfluenceSecondSettings) -> Prepared:
    """Return the edit that erases or corrects; everything is measured when it runs."""
    return Prepared(net=task.net, work=NewtonStep(settings, CrossEntropy(), task.corrected))


def _shaped(vector_P: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = vector_P.split([value.numel() for value in like.values()])
    return {
        name: torch.reshape(part, value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }


INFLUENCE_SECOND = Method(
    name="influence_second",
    source="Warnecke et al. 2021, arXiv 2108.11577",
    settings=InfluenceSecondSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
