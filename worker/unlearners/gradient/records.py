"""Records as a course meets them: two sides, and batches that are functions of a seed and a number.

Promises: the batch of a step depends on nothing but the records, the seed and the step, so a run resumed in
the middle draws what the whole one would have drawn. An epoch meets every record once.

Shape suffixes: N records, B records of a batch, * the shape of one input.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor


class Side(StrEnum):
    """Whose records: those to be forgotten, those that stay, or those that training never met."""

    FORGET = "forget"
    RETAIN = "retain"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class Batch:
    """Inputs (B, *), targets (B,) or (B, *), and each record's index (B,) among those of its side."""

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


class Records(Protocol):
    """The records of one side; a method that needs no targets must not ask for them."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def inputs(self, indices_B: Tensor) -> Tensor:
        """Return their inputs (B, *)."""
        ...

    def targets(self, indices_B: Tensor) -> Tensor:
        """Return their targets."""
        ...


Sides = Mapping[Side, Records]
"""What a method is given. One that reads a side it was not given has a fault."""


@dataclass(frozen=True)
class TensorRecords:
    """Records that are tensors already: inputs (N, *) and targets (N, ...), on one device."""

    all_inputs: Tensor
    all_targets: Tensor

    def __len__(self) -> int:
        return len(self.all_inputs)

    def inputs(self, indices_B: Tensor) -> Tensor:
        """Return their inputs, freshly laid out: strides would change the bits of convolutions."""
        chosen = self.all_inputs.index_select(0, indices_B.to(self.all_inputs.device))
        return chosen.clone(memory_format=torch.contiguous_format)

    def targets(self, indices_B: Tensor) -> Tensor:
        """Return their targets."""
        return self.all_targets.index_select(0, indices_B.to(self.all_targets.device))


@dataclass
class Stream:
    """Batches of ``batch_size`` records of one side, shuffled anew each epoch; the last may be smaller."""

    records: Records
    batch_size: int
    seed: int
    _shuffled: tuple[int, Tensor] = field(init=False, repr=False, default=(-1, torch.empty(0)))

    @property
    def num_batches(self) -> int:
        """Batches of one epoch."""
        return batches_in(self.records, batch_size=self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Return which records the batch of a step holds (B,)."""
        epoch, place = divmod(step, self.num_batches)
        if self._shuffled[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self._shuffled = epoch, torch.randperm(len(self.records), generator=generator)
        return self._shuffled[1][place * self.batch_size : (place + 1) * self.batch_size]


def batches_in(records: Records, *, batch_size: int) -> int:
    """Return how many batches meet every record once."""
    return max(1, -(-len(records) // batch_size))


def seed_of(seed: int, *parts: str | int) -> int:
    """Return a seed of 63 bits for one purpose; other parts give unrelated ones."""
    text = "\0".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def chunks(records: Records, *, size: int) -> Iterator[Tensor]:
    """Yield the indices of all records in order, ``size`` at a time."""
    yield from torch.arange(len(records)).split(size)
