"""One-shot unlearning: theta <- E(theta; statistics of the forget and the retain set), and its runner.

Promises: statistics are measured in eval mode and leave modes, gradients and torch's random state as they
were; a statistic or a weight that is not finite is refused; whatever goes wrong, the net is as it was.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.records import Records, Side, Sides
from worker.unlearners.gradient.runner import MethodBrokeDown
from worker.unlearners.gradient.statistics import untouched

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
    """What an edit did: ``moved`` is |theta' - theta|, ``share`` the share of weights that changed at all.

    ``num_records`` are those gone forward and backward over, by side; a record met twice counts twice.
    """

    moved: float
    share: float
    num_records: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as evidence shows it."""
        return {"moved": self.moved, "share_changed": self.share, "num_records": dict(self.num_records)}


def run_edit(net: nn.Module, edit: Edit, sides: Sides) -> Edited:
    """Apply the edit in place.

    Raises:
        MethodBrokeDown: a statistic, or a weight afterwards, is not finite; the net is as it was.
    """
    met: Counter[Side] = Counter()
    with _all_or_nothing(net) as before:
        with untouched(net):
            statistics = edit.statistics(net, _counted(sides, met))
        _require_unchanged(net, before)
        for name, values in statistics.items():
            _require_finite(values, what=f"{name} of")
        with torch.no_grad():
            edit.apply(net, statistics)
        _require_finite(_tensors(net), what="after the edit,")
    return _edited(net, before, met)


@dataclass(frozen=True)
class _Counted:
    """Records that count how many inputs were asked for."""

    records: Records
    side: Side
    met: Counter[Side]

    def __len__(self) -> int:
        return len(self.records)

    def inputs(self, indices_B: Tensor) -> Tensor:
        self.met[self.side] += len(indices_B)
        return self.records.inputs(indices_B)

    def targets(self, indices_B: Tensor) -> Tensor:
        return self.records.targets(indices_B)


def _counted(sides: Sides, met: Counter[Side]) -> Sides:
    return {side: _Counted(records, side, met) for side, records in sides.items()}


@contextmanager
def _all_or_nothing(net: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """Give copies of weights and buffers, and put them back unless the block runs to its end."""
    before = {name: tensor.detach().clone() for name, tensor in _tensors(net).items()}
    is_done = False
    try:
        yield before
        is_done = True
    finally:
        if not is_done:
            with torch.no_grad():
                for name, tensor in _tensors(net).items():
                    tensor.copy_(before[name])


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return dict(chain(net.named_parameters(), net.named_buffers()))


def _require_unchanged(net: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, tensor in _tensors(net).items():
        assert torch.equal(tensor.detach(), before[name]), f"the statistics changed {name}"


def _require_finite(values: Mapping[str, Tensor], *, what: str) -> None:
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise MethodBrokeDown(f"{what} {name} is not finite")


def _edited(net: nn.Module, before: Mapping[str, Tensor], met: Counter[Side]) -> Edited:
    changes = [parameter.detach() - before[name] for name, parameter in net.named_parameters()]
    num_changed = sum(int((change != 0).sum()) for change in changes)
    return Edited(
        moved=float(torch.linalg.vector_norm(torch.stack([change.norm() for change in changes]))),
        share=num_changed / sum(change.numel() for change in changes),
        num_records={side.value: num for side, num in met.items()},
    )
