"""When a course has forgotten as much as it should: not less, and not more, for that is a trace as well.

The mark is what the net says of records that training never met. Their mean loss alone would not do: a wrong
label, or a whole class, ought to be far less likely afterwards than the labels of unseen records are. So each
forgotten record is compared with the unseen inputs most like its own, *given its label*: their labels are not
read. Somebody ordinary lies among people of the same label, a mislabelled record among people of another.

Confidence is compared and not loss, which has no upper bound: one record far out would decide for all. A mean
over many hides a single one that is still known, so the answers are counted as well.

Shape suffixes: F forgotten records, U unseen ones, L nearest, K classes.
"""

from dataclasses import dataclass, field
from math import ceil, floor

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.losses import widened
from worker.unlearners.gradient.records import Records, Side, Sides

CHUNK_RECORDS = 512
NUM_NEAREST = 3
SAMPLE_RECORDS = 2_000
TOLERANCE = 0.005
# More answers than among people alike, as a share of the forgotten: none where they are fewer than a hundred.
SPARE_ANSWERS = 0.01


@dataclass
class LooksUnseen:
    """Stops when the forgotten are as unsure, and as seldom answered, as unseen inputs like them.

    Mean confidence in their labels, and how many are answered with their label. ``seen`` keeps the two
    confidences, as shares, after each look.
    """

    forget: Records
    unseen: Records
    seen: list[tuple[float, float]] = field(default_factory=list)
    nearest_FL: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.nearest_FL = _nearest(_inputs(self.forget), _inputs(self.unseen))

    def is_reached(self, net: nn.Module) -> bool:
        """Whether it has, for the net as it is now."""
        own_FK, unseen_UK = _shares(net, self.forget), _shares(net, self.unseen)
        labels_F = self.forget.targets(torch.arange(len(own_FK)))
        own = float(own_FK.gather(1, labels_F.unsqueeze(1)).mean())
        labels_FL1 = labels_F[:, None, None].expand(-1, self.nearest_FL.shape[1], 1)
        like = float(unseen_UK[self.nearest_FL].gather(2, labels_FL1).mean())
        self.seen.append((own, like))
        return own <= like + TOLERANCE and not self._is_answered(own_FK, unseen_UK, labels_F)

    def _is_answered(self, own_FK: Tensor, unseen_UK: Tensor, labels_F: Tensor) -> bool:
        """Whether more of the forgotten are answered with their label than of people alike, rounded up."""
        num_own = int((own_FK.argmax(1) == labels_F).sum())
        alike_FL = unseen_UK.argmax(1)[self.nearest_FL] == labels_F[:, None]
        expected = ceil(round(float(alike_FL.double().mean(1).sum()), 6))
        return num_own > expected + floor(SPARE_ANSWERS * len(labels_F))


def looks_unseen(sides: Sides) -> LooksUnseen | None:
    """Return the rule for these records, or None where there are no unseen ones to compare with."""
    unseen = sides.get(Side.HELD_OUT)
    return LooksUnseen(sides[Side.FORGET], unseen) if unseen is not None and len(unseen) else None


def _inputs(records: Records) -> Tensor:
    return records.inputs(torch.arange(min(len(records), SAMPLE_RECORDS)))


def _shares(net: nn.Module, records: Records) -> Tensor:
    inputs = _inputs(records)
    with torch.no_grad():
        parts = [widened(net(part)).softmax(-1) for part in inputs.split(CHUNK_RECORDS)]
    return torch.cat(parts)


def _nearest(forget: Tensor, unseen: Tensor) -> Tensor:
    """Return the indices of the nearest unseen inputs (F, L), by Euclidean distance of the inputs."""
    distances_FU = torch.cdist(forget.flatten(1), unseen.flatten(1))
    return distances_FU.topk(min(NUM_NEAREST, len(unseen)), largest=False).indices
