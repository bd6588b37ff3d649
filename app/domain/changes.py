"""What a rectification changes in a record, and whether a dataset's schema allows it.

Only what a record states as a number by itself: its label, and features of records that are plain lists of
numbers. A pixel is no statement about anybody; whoever wants another image deletes the record.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.domain.errors import Misfit
from app.domain.terms import JsonObject

# By size in bytes: how struct packs a float; without "<" it lets pass what is too large.
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}


@dataclass(frozen=True)
class Changes:
    """A new label, and new features by name (or by index from 0 where the dataset has no names)."""

    label: int | None = None
    features: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return it as a request keeps it until it is completed."""
        stated: JsonObject = {} if self.label is None else {"label": self.label}
        return stated | ({"features": {**self.features}} if self.features else {})

    @classmethod
    def from_json(cls, stated: JsonObject) -> "Changes":
        """Return what ``to_json`` gave; other keys are somebody else's."""
        label, features = stated.get("label"), stated.get("features") or {}
        assert isinstance(features, dict)
        numbers = {name: _number(value) for name, value in features.items()}
        return cls(label=None if label is None else int(_number(label)), features=numbers)

    def places(self, layout: JsonObject) -> dict[int, float]:
        """Return the new features by index.

        Raises:
            KeyError: the layout has no such feature; ``misfits`` says so first.
        """
        indices = _indices(layout)
        return {indices[name]: value for name, value in self.features.items()}

    def misfits(self, layout: JsonObject, *, dataset: str) -> list[Misfit]:
        """Return what does not fit records of this layout (a dataset's row keeps it), in order.

        Pointers begin at the changes.
        """
        of_label = [] if self.label is None else label_misfits(self.label, layout, dataset=dataset)
        return [*of_label, *self._feature_misfits(layout, dataset=dataset)]

    def _feature_misfits(self, layout: JsonObject, *, dataset: str) -> Iterator[Misfit]:
        indices, dtype = _indices(layout), str(layout["dtype"])
        for name, value in self.features.items():
            if not indices:
                yield Misfit("/features", f"records of dataset {dataset!r} are no plain lists of numbers")
                return
            if name not in indices:
                yield Misfit("/features", f"dataset {dataset!r} has no feature of one of these names")
            elif not _holds(dtype, value):
                yield Misfit(f"/features/{name}", f"dataset {dataset!r} holds numbers of type {dtype[1:]}")


def label_misfits(label: int, layout: JsonObject, *, dataset: str) -> list[Misfit]:
    """Return why a dataset has no such label: one reason at most."""
    num = int(_number(layout["num_classes"]))
    if 0 <= label < num:
        return []
    return [Misfit("/label", f"dataset {dataset!r} has the labels 0 to {num - 1}")]


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def _indices(layout: JsonObject) -> dict[str, int]:
    """Return the index of each feature that can be named; none where a record is more than a list."""
    shape = layout["shape"]
    assert isinstance(shape, list)
    if len(shape) != 1:
        return {}
    names = layout.get("feature_names") or [str(index) for index in range(int(_number(shape[0])))]
    assert isinstance(names, list)
    return {str(name): index for index, name in enumerate(names)}


def _holds(dtype: str, value: float) -> bool:
    """Whether a numpy dtype such as ``<f4`` or ``|u1`` has this number, a float as nearly as it can."""
    kind, size = dtype[1], int(dtype[2:])
    if kind == "f":
        try:
            struct.pack(_FLOATS[size], value)
        except OverflowError:
            return False
        return True
    least, most = (
        (0, 2 ** (8 * size) - 1) if kind == "u" else (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)
    )
    return value == int(value) and least <= value <= most
