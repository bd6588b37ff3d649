"""What the caller of an import may choose: column names, labels file, synthetic subjects.

Promises that a column the caller named and that is missing is refused, while one that merely goes by its
default name may be absent. Never looks into a file: readers say which columns are there.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.data.sources.table import SourceRefused


class Role(StrEnum):
    """What a column is for; the value is the name it goes by when the caller names none."""

    RECORD = "record_id"
    SUBJECT = "subject_id"
    LABEL = "label"
    SPLIT = "split"
    SPREAD = "spread"
    LIKELIHOOD = "likelihood"


@dataclass(frozen=True)
class SourceOptions:
    """A column left at None goes by its role's default name (`record_id`, `label`, ...) and may be absent."""

    record_column: str | None = None
    subject_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    spread_column: str | None = None
    likelihood_column: str | None = None
    features_columns: tuple[str, ...] | None = None
    labels_path: Path | None = None  # IDX only
    subjects_path: Path | None = None  # PNG sheets only: a CSV of record_id, subject_id
    records_per_subject: int | None = None  # synthetic subjects of so many consecutive records

    def __post_init__(self) -> None:
        if self.records_per_subject is not None and self.records_per_subject < 1:
            raise SourceRefused(f"records_per_subject is {self.records_per_subject}, at least 1 is needed")
        if self.features_columns is not None and not self.features_columns:
            raise SourceRefused("features_columns names no column")

    def named_columns(self) -> dict[Role, str]:
        """The columns that the caller named; these must exist."""
        columns = {
            Role.RECORD: self.record_column,
            Role.SUBJECT: self.subject_column,
            Role.LABEL: self.label_column,
            Role.SPLIT: self.split_column,
            Role.SPREAD: self.spread_column,
            Role.LIKELIHOOD: self.likelihood_column,
        }
        return {role: name for role, name in columns.items() if name is not None}


def locate_columns(options: SourceOptions, *, available: Collection[str], place: str) -> dict[Role, str]:
    """Name of the column of each role that the source has; a label is required."""
    named = options.named_columns()
    for role, name in named.items():
        if name not in available:
            raise SourceRefused(f"{place}: no column {name!r} for {role}; there is: {_listed(available)}")
    found = {role: role.value for role in Role if role.value in available} | named
    if Role.LABEL not in found:
        raise SourceRefused(f"{place}: no column 'label'; there is: {_listed(available)}")
    return found


def refuse_columns(options: SourceOptions, *, place: str) -> None:
    """For sources without columns: naming one is the caller's mistake."""
    names = [*options.named_columns().values(), *(options.features_columns or ())]
    if names:
        raise SourceRefused(f"{place}: has no columns, so none can be named: {_listed(names)}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
