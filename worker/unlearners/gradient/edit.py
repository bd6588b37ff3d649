"""One-shot unlearning: theta <- E(theta; statistics of the forget and the retain set), and its runner.

Promises: the statistics leave the net as it was; an edit that gives weights that are not finite is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.records import Sides
from worker.unlearners.gradient.runner import CourseDiverged

Statistics = Mapping[str, Mapping[str, Tensor]]
"""Tensors of the weights' shapes, by statistic and weight."""


class Edit(Protocol):
    """Measure, then change the weights once."""

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Return what the change is made from; the net is untouched."""
        ...

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Change the weights in place."""
        ...


@dataclass(frozen=True)
class Edited:
    """What an edit did: ``moved`` is |theta' - theta|, ``share`` the share of weights that changed at all."""

    moved: float
    share: float
    num_records: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as evidence shows it."""
        return {"moved": self.moved, "share_changed": self.share, "num_records": dict(self.num_records)}


def run_edit(net: nn.Module, edit: Edit, sides: Sides) -> Edited:
    """Apply the edit in place.

    Raises:
        CourseDiverged: a weight is not finite afterwards; the net is as it was.
    """
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    statistics = edit.statistics(net, sides)
    with torch.no_grad():
        edit.apply(net, statistics)
    after = dict(net.named_parameters())
    if bad := [name for name, value in after.items() if not bool(value.isfinite().all())]:
        with torch.no_grad():
            for name, value in after.items():
                value.copy_(before[name])
        raise CourseDiverged(f"{bad[0]} is not finite after the edit")
    changes = [after[name].detach() - old for name, old in before.items()]
    num = sum(change.numel() for change in changes)
    num_changed = sum(int((change != 0).sum()) for change in changes)
    moved = float(torch.linalg.vector_norm(torch.stack([change.norm() for change in changes])))
    return Edited(moved=moved, share=num_changed / num)
