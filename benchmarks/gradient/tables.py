"""The rows of a benchmark: one for each column of each method in each scenario."""

from collections.abc import Sequence

from benchmarks.gradient.measuring import Outcome
from benchmarks.gradient.scenarios import Kind
from benchmarks.results import Row, Sheet

UNITS = {"gap": "points", "KL": "nats", "cost": "records", "looks": "records", "time": "s"}
AGAINST = {
    "gap": "to training without them, mean of forget, retain, test, member",
    "KL": "from training without them, on test",
    "cost": "forward and backward, saliency included",
    "looks": "forward alone",
}


def rows_of(made: Sheet, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the rows, scenario by scenario, of as many draws as there are."""
    rows: list[Row] = []
    for kind in Kind:
        of_kind = [each for each in outcomes if each.kind is kind]
        for name in dict.fromkeys(each.name for each in of_kind):
            rows += _rows_of(made, [each for each in of_kind if each.name == name])
    return rows


def _rows_of(made: Sheet, same: Sequence[Outcome]) -> list[Row]:
    label = f"{same[0].kind.value}, {same[0].name}"
    return [
        made.median(
            f"{label}: {column}", [each.columns[column] for each in same], unit=UNITS.get(column, "%"),
            baseline=AGAINST.get(column, ""),
        )
        for column in same[0].columns
    ]  # fmt: skip
