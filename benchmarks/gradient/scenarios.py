"""Three ways to be forgotten: mislabelled, a whole class, or anybody.

A: a tenth of the training records carries a wrong label and is to be forgotten. B: a class. C: a random
tenth; everything looks alike there, so it ranks nothing. Others are unseen: some to stop by, some to test on.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from benchmarks.gradient.images import Images
from worker.unlearners.gradient.records import Side, Sides, TensorRecords


class Kind(StrEnum):
    """Who is forgotten."""

    MISLABELLED = "A"
    CLASS = "B"
    ANYBODY = "C"


@dataclass(frozen=True)
class Scenario:
    """One draw of a scenario: the sides, and records (inputs, labels) to judge by, by name."""

    kind: Kind
    sides: Sides
    judged: dict[str, tuple[Tensor, Tensor]]
    num_classes: int

    @property
    def everybody(self) -> TensorRecords:
        """Those whom the original is trained on."""
        parts = [self.judged[side] for side in (Side.FORGET, Side.RETAIN)]
        return TensorRecords(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    @property
    def retained(self) -> TensorRecords:
        """Those whom training again meets."""
        return TensorRecords(*self.judged[Side.RETAIN])

    def on(self, device: torch.device) -> "Scenario":
        """Return the same draw on a device."""
        judged = {name: (x.to(device), y.to(device)) for name, (x, y) in self.judged.items()}
        unseen = self.sides[Side.HELD_OUT]
        assert isinstance(unseen, TensorRecords)
        moved = TensorRecords(unseen.all_inputs.to(device), unseen.all_targets.to(device))
        return Scenario(self.kind, _sides(judged, moved), judged, self.num_classes)


def drawn(images: Images, kind: Kind, *, seed: int) -> Scenario:
    """Return the scenario that a seed draws."""
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(images.labels), generator=generator)
    shift_N = torch.randint(1, images.num_classes, order_N.shape, generator=generator)
    training, unseen, test = _parts(images, order_N)
    own_class = seed % images.num_classes
    is_gone = torch.arange(len(training)) < images.num_gone
    if kind is Kind.CLASS:
        is_gone = images.labels[training] == own_class
        unseen, test = (part[images.labels[part] != own_class] for part in (unseen, test))
    true = images.labels[training]
    wrong = (true + shift_N[: len(training)]) % images.num_classes
    labels = torch.where(is_gone, wrong, true) if kind is Kind.MISLABELLED else true
    judged = {
        Side.FORGET.value: (images.inputs[training[is_gone]], labels[is_gone]),
        Side.RETAIN.value: (images.inputs[training[~is_gone]], labels[~is_gone]),
        "test": (images.inputs[test], images.labels[test]),
    }
    if kind is Kind.MISLABELLED:
        judged["true"] = (judged[Side.FORGET.value][0], true[is_gone])
    sides = _sides(judged, TensorRecords(images.inputs[unseen], images.labels[unseen]))
    return Scenario(kind, sides, judged, images.num_classes)


def _sides(judged: dict[str, tuple[Tensor, Tensor]], unseen: TensorRecords) -> Sides:
    own = {side: TensorRecords(*judged[side]) for side in (Side.FORGET, Side.RETAIN)}
    return {**own, Side.HELD_OUT: unseen}


def _parts(images: Images, order_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which images are trained on, unseen, and tested on."""
    is_test_N = images.is_test_N[order_N]
    pool, own = order_N[~is_test_N], order_N[is_test_N]
    others = own if len(own) else pool[images.num_training :]
    unseen, test = others[: images.num_unseen], others[images.num_unseen :]
    return pool[: images.num_training], unseen, test[: images.num_test]
