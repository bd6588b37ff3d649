"""First-order influence: theta <- theta + tau (sum of gradients of the erased, less that of the corrected).

Warnecke et al. 2021, "Machine Unlearning of Features and Labels" (arXiv 2108.11577).
"""

from dataclasses import dataclass

from torch import nn

from app.domain.methods import InfluenceFirstSettings
from worker.unlearners.gradient.edit import Statistics
from worker.unlearners.gradient.influence import changed_gradient
from worker.unlearners.gradient.losses import CrossEntropy, Loss
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Records, Side, Sides


@dataclass(frozen=True)
class FollowGradients:
    """The edit. ``corrected`` stand in the forgotten records' place: other features, or other labels."""

    settings: InfluenceFirstSettings
    loss: Loss
    corrected: Records | None = None

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Return the sum of gradients that changes."""
        return {"changed": changed_gradient(net, self.loss, sides[Side.FORGET], self.corrected)}

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Take one step."""
        for name, value in statistics["changed"].items():
            net.get_parameter(name).add_(value, alpha=self.settings.rate)


def prepare(task: Task, settings: InfluenceFirstSettings) -> Prepared:
    """Return the edit that erases or corrects; everything is measured when it runs."""
    return Prepared(net=task.net, work=FollowGradients(settings, CrossEntropy(), task.corrected))


INFLUENCE_FIRST = Method(
    name="influence_first",
    source="Warnecke et al. 2021, arXiv 2108.11577",
    settings=InfluenceFirstSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS}),
    prepare=prepare,
)
