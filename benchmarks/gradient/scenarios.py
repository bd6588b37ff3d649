"""Three ways to be forgotten, on the digits at 28 x 28: mislabelled, a whole class, or anybody.

A: 100 of 1000 training records carry a wrong label and are to be forgotten. B: a class. C: a random tenth;
everything looks alike there, so it ranks nothing. The rest is unseen: 300 records to stop by, the others to
test on.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from worker.training.nets import lenet5
from worker.unlearners.gradient.records import Side, Sides, Stream, TensorRecords

NUM_TRAINING, NUM_UNSEEN, NUM_WRONG = 1_000, 300, 100
NUM_CLASSES, SIZE = 10, 28
NUM_STEPS, BATCH_SIZE, LEARNING_RATE, MOMENTUM = 1_500, 64, 0.02, 0.9


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

    @property
    def everybody(self) -> TensorRecords:
        """Those whom the original is trained on."""
        forget, retain = self.sides[Side.FORGET], self.sides[Side.RETAIN]
        parts = [(r.inputs(every), r.targets(every)) for r in (forget, retain) for every in [_every(r)]]
        return TensorRecords(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))


def drawn(kind: Kind, *, seed: int) -> Scenario:
    """Return the scenario that a seed draws."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = _digits()
    order = torch.randperm(len(labels), generator=generator)
    inputs, true = normalised(inputs[order]), labels[order]
    labels = true.clone()
    place = torch.arange(len(labels))
    is_training = place < NUM_TRAINING
    is_gone = is_training & _is_gone(kind, true, place, seed=seed)
    if kind is Kind.MISLABELLED:
        shift = torch.randint(1, NUM_CLASSES, (len(labels),), generator=generator)
        labels = torch.where(is_gone, (true + shift) % NUM_CLASSES, true)
    is_unseen = ~is_training & (place < NUM_TRAINING + NUM_UNSEEN)
    is_test = place >= NUM_TRAINING + NUM_UNSEEN
    if kind is Kind.CLASS:
        is_unseen, is_test = is_unseen & (true != seed % NUM_CLASSES), is_test & (true != seed % NUM_CLASSES)
    chosen = {Side.FORGET: is_gone, Side.RETAIN: is_training & ~is_gone, Side.HELD_OUT: is_unseen}
    sides: Sides = {side: TensorRecords(inputs[own], labels[own]) for side, own in chosen.items()}
    judged = {name: (inputs[chosen[Side(name)]], labels[chosen[Side(name)]]) for name in ("forget", "retain")}
    judged["test"] = (inputs[is_test], true[is_test])
    if kind is Kind.MISLABELLED:
        judged["true"] = (inputs[is_gone], true[is_gone])
    return Scenario(kind, sides, judged)


def trained(records: TensorRecords, *, seed: int) -> nn.Module:
    """Return a LeNet-5 that fits these records fully."""
    torch.manual_seed(seed)
    net = lenet5()
    stream = Stream(records, batch_size=BATCH_SIZE, seed=seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for step in range(NUM_STEPS):
        indices = stream.indices(step)
        optimizer.zero_grad()
        F.cross_entropy(net(records.inputs(indices)), records.targets(indices)).backward()
        optimizer.step()
    return net


def accuracies(net: nn.Module, scenario: Scenario) -> dict[str, float]:
    """Return accuracy in percent on everything that is judged."""
    net.eval()
    with torch.no_grad():
        hits = {name: net(x).argmax(1) == y for name, (x, y) in scenario.judged.items()}
    return {name: 100 * float(hit.double().mean()) for name, hit in hits.items()}


def divergence(net: nn.Module, other: nn.Module, scenario: Scenario) -> float:
    """Return the mean KL(other || net) in nats on the test records."""
    inputs, _ = scenario.judged["test"]
    with torch.no_grad():
        own, theirs = (each.eval()(inputs).log_softmax(-1) for each in (net, other))
        return float(F.kl_div(own, theirs, reduction="batchmean", log_target=True))


def _is_gone(kind: Kind, true: Tensor, place: Tensor, *, seed: int) -> Tensor:
    return true == seed % NUM_CLASSES if kind is Kind.CLASS else place < NUM_WRONG


def drawn_digits(*, seed: int) -> tuple[Tensor, Tensor]:
    """Return all images (N, 1, 28, 28) in [0, 1] and their labels (N,), in an order of the seed."""
    images, labels = _digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return images[order], labels[order]


def normalised(images: Tensor) -> Tensor:
    """Return images in [0, 1] as the nets of the scenarios take them."""
    return images.sub(0.3).div(0.37)


def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1).div(16)
    return F.interpolate(images, size=SIZE, mode="bilinear"), torch.tensor(found.target)


def _every(records: object) -> Tensor:
    assert isinstance(records, TensorRecords)
    return torch.arange(len(records))
