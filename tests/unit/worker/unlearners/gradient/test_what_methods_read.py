"""A method reads what it says and nothing else, from its preparation to the end of its course or edit."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.support.gradient import small_net
from tests.support.gradient_methods import SIDES, task_of, unlearned
from worker.unlearners.gradient.method import Reads
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Records, Side

READS_OF_SETTINGS = [
    ("random_label", {"exclude_true": False}, {Reads.FORGET}),
    ("random_label", {"redraw": False, "exclude_true": False}, {Reads.FORGET}),
    ("random_label", {"redraw": False}, {Reads.FORGET, Reads.FORGET_LABELS}),
]


@dataclass
class Watched:
    """Records that note who was asked for what."""

    side: Side
    records: Records
    seen: set[Reads] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.records)

    def inputs(self, indices_B: Tensor) -> Tensor:
        """Return the inputs."""
        self.seen.add(Reads(self.side.value))
        return self.records.inputs(indices_B)

    def targets(self, indices_B: Tensor) -> Tensor:
        """Return the targets; there is no word for those of unseen records, because nobody may ask."""
        self.seen.add(Reads(f"{self.side.value}_labels"))
        return self.records.targets(indices_B)


def reads_of(name: str, **settings: object) -> set[Reads]:
    seen: set[Reads] = set()
    watched = {side: Watched(side, records, seen) for side, records in SIDES.items()}
    unlearned(METHODS[name], task_of(sides=watched), stops=True, **settings)
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_what_it_says_and_nothing_else(name: str) -> None:
    assert reads_of(name) == METHODS[name].reads


@pytest.mark.parametrize(("name", "settings", "of_forgotten"), READS_OF_SETTINGS)
def test_other_settings_read_other_things(
    name: str, settings: dict[str, bool], of_forgotten: set[Reads]
) -> None:
    assert reads_of(name, **settings) == of_forgotten | {Reads.RETAIN, Reads.RETAIN_LABELS}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_works_without_the_sides_that_it_does_not_read(name: str) -> None:
    method = METHODS[name]
    sides = {read.side: SIDES[read.side] for read in method.reads}
    everything, some = small_net(), small_net()
    first = unlearned(method, task_of(everything), stops=True)
    second = unlearned(method, task_of(some, sides=sides), stops=True)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
