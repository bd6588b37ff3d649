"""Which columns must exist, and which may be absent."""

import pytest

from worker.data.sources.options import Role, SourceOptions, locate_columns, refuse_columns
from worker.data.sources.table import SourceRefused


def test_default_columns_are_taken_when_they_are_there() -> None:
    found = locate_columns(SourceOptions(), available=["x", "label", "spread"], place="s")
    assert found == {Role.LABEL: "label", Role.SPREAD: "spread"}


def test_a_named_column_replaces_the_default() -> None:
    options = SourceOptions(subject_column="person")
    found = locate_columns(options, available=["label", "subject_id", "person"], place="s")
    assert found == {Role.LABEL: "label", Role.SUBJECT: "person"}


@pytest.mark.parametrize("role", ["record", "subject", "label", "split", "spread", "likelihood"])
def test_a_named_column_that_is_missing_is_refused(role: str) -> None:
    options = SourceOptions(**{f"{role}_column": "gone"})
    with pytest.raises(SourceRefused, match=f"s: no column 'gone' for {role}.*; there is: 'label'"):
        locate_columns(options, available=["label"], place="s")


def test_naming_a_default_makes_it_required() -> None:
    options = SourceOptions(subject_column="subject_id")
    with pytest.raises(SourceRefused, match="no column 'subject_id'"):
        locate_columns(options, available=["label"], place="s")


def test_a_source_without_labels_is_refused() -> None:
    with pytest.raises(SourceRefused, match="s: no column 'label'; there is: nothing"):
        locate_columns(SourceOptions(), available=[], place="s")


@pytest.mark.parametrize(
    "options", [SourceOptions(record_column="c"), SourceOptions(features_columns=("c",))]
)
def test_a_source_without_columns_refuses_a_named_one(options: SourceOptions) -> None:
    with pytest.raises(SourceRefused, match="s: has no columns, so none can be named: 'c'"):
        refuse_columns(options, place="s")


@pytest.mark.parametrize("number", [0, -1])
def test_a_synthetic_subject_has_at_least_one_record(number: int) -> None:
    with pytest.raises(SourceRefused, match=f"records_per_subject is {number}"):
        SourceOptions(records_per_subject=number)


def test_a_synthetic_subject_may_have_a_single_record() -> None:
    assert SourceOptions(records_per_subject=1).records_per_subject == 1


def test_an_empty_choice_of_features_is_refused() -> None:
    with pytest.raises(SourceRefused, match="features_columns names no column"):
        SourceOptions(features_columns=())
