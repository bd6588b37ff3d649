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
# Why a method does not forget, or not without harm, on a net that fits its records fully.
WHY_NOT: dict[tuple[Kind, str], str] = {
    **{
        (kind, name): why
        for kind in (Kind.MISLABELLED, Kind.CLASS)
        for name, why in {
            "sfron (released)": "no lower bound on the forget gradient, which is nothing for a fitted record",
            "finetune": "retained records that are fitted have no gradient left, so nothing moves",
            "gradient_ascent": "nothing holds the retained: the net goes with the forgotten",
            "fisher_noise": "the Fisher information of a fitted net is nearly nothing, so the noise is large",
            "influence_first": "one step along gradients that are nearly nothing for fitted records",
            "influence_second": "the gradients are nearly nothing, and damped Newton steps of them too",
            "boundary_expand": "few small steps, for nothing holds the retained",
        }.items()
    },
    (Kind.MISLABELLED, "boundary_shrink"): "nothing holds the retained: the rest falls with the wrong labels",
    (Kind.MISLABELLED, "bad_teacher"): "near-uniform shares leave the wrong label among the likeliest",
    (Kind.MISLABELLED, "scrub"): "ascends in its first epochs alone; what is left then stays",
    (Kind.MISLABELLED, "ssd"): "wrong labels have no weights of their own: what is dampened is everybody's",
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
            baseline=_note(same[0], column),
        )
        for column in same[0].columns
    ]  # fmt: skip


def _note(outcome: Outcome, column: str) -> str:
    return WHY_NOT.get((outcome.kind, outcome.name), "") if column == "forget" else AGAINST.get(column, "")
