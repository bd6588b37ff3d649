"""Images to train on, and people who own some of them. Mislabelled people are so before training begins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.data.sources import SourceTable

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Images:
    """Raw features (N, C, H, W) uint8 and labels (N,), for training and for testing."""

    features: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    test_features: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    num_classes: int = 10

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one image."""
        return self.features.shape[1:]

    def first(self, num: int) -> "Images":
        """Return the same with fewer images to train on."""
        return Images(self.features[:num], self.labels[:num], self.test_features, self.test_labels)


@dataclass(frozen=True)
class Person:
    """A subject: the name that places it, and which training images are its own."""

    name: str
    rows: Rows
    is_mislabelled: bool = False


def images_of(table: SourceTable) -> Images:
    """Return the images of a source with a held-out split."""
    assert table.held_out is not None
    held_out = np.asarray(table.held_out)
    features, labels = np.asarray(table.features), np.asarray(table.labels)
    return Images(features[~held_out], labels[~held_out], features[held_out], labels[held_out])


def mislabelled(images: Images, people: Sequence[Person], *, seed: int) -> npt.NDArray[np.int64]:
    """Return the labels with each mislabelled person's replaced by another class, drawn uniformly."""
    labels, draw = images.labels.copy(), np.random.default_rng([seed, 1])
    for person in people:
        if person.is_mislabelled:
            shift = draw.integers(1, images.num_classes, size=len(person.rows))
            labels[person.rows] = (labels[person.rows] + shift) % images.num_classes
    return labels


def drawn_people(images: Images, sizes: Sequence[tuple[int, bool]], *, seed: int) -> list[Person]:
    """Return people of these sizes (number of records, mislabelled or not) over distinct random images."""
    order = np.random.default_rng([seed, 0]).permutation(len(images))
    people, at = [], 0
    for number, (size, is_wrong) in enumerate(sizes):
        people.append(Person(f"person-{number}", order[at : at + size], is_mislabelled=is_wrong))
        at += size
    return people
