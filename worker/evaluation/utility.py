"""Accuracy on fixed samples.

A version is judged as it is served: all constituents together, by the rule of its manifest.

Accuracy gates empirical versions. An exact one is published even when accuracy falls, because refusing a
lawful erasure keeps the person in production.

Shape suffixes: N records, * the shape of one input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from app.domain.terms import JsonObject, JsonValue
from models_store.ensemble import Ensemble
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.evaluation.gates import Check

SAMPLE_RECORDS = 2_000
# A class has collapsed when it keeps less than this share of its accuracy; fewer records say nothing of one.
CLASS_FLOOR = 0.5
CLASS_RECORDS = 10
Shares = Mapping[str, float | None]
"""Accuracy, or what is left of it, by sample."""


@dataclass(frozen=True)
class Sample:
    """Inputs (N, *) and labels (N,) of a fixed choice of records."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, is_wanted_N: Tensor) -> "Sample":
        """Return those that a mask (N,) chooses."""
        return Sample(inputs=self.inputs[is_wanted_N], labels=self.labels[is_wanted_N])


def sample_of(loader: Loader, table: RecordTable, *, num: int = SAMPLE_RECORDS) -> Sample:
    """Return a fixed sample of a table: the same records for every version that retains them."""
    inputs, labels = loader.select(table.first(num))
    return Sample(inputs=inputs, labels=labels)


def accuracy(version: Ensemble, sample: Sample) -> float | None:
    """Return the share of records whose label the version chooses; None for an empty sample."""
    if not len(sample):
        return None
    return round(float(_hits(version, sample).double().mean()), 6)


def lowest_share_kept(new: Ensemble, parent: Ensemble, sample: Sample) -> float | None:
    """Return the smallest share of its accuracy that a class kept; None without a class large enough."""
    if not len(sample):
        return None
    after_N, before_N = _hits(new, sample), _hits(parent, sample)
    shares = []
    for label in sample.labels.unique():
        own = sample.labels == label
        num_before = int(before_N[own].sum())
        if int(own.sum()) >= CLASS_RECORDS and num_before:
            shares.append(int(after_N[own].sum()) / num_before)
    return round(min(shares), 6) if shares else None


def _hits(version: Ensemble, sample: Sample) -> Tensor:
    return version.labels(sample.inputs) == sample.labels


def remainder_check(num_training_records: Sequence[int]) -> Check:
    """Flag constituents that had nothing to train on, by shard: their weights are the initialisation."""
    empty = [shard for shard, num in enumerate(num_training_records) if not num]
    figures: JsonObject = {"num_training_records": sum(num_training_records)}
    where, num_shards = "", len(num_training_records)
    if num_shards > 1:
        where = f" in {len(empty)} of {num_shards} shards ({', '.join(map(str, empty[:10]))})"
        figures["by_shard"] = list(num_training_records)
    return Check(
        name="remainder",
        holds=not empty,
        is_gate=False,
        power="certain",
        figures=figures,
        problem=f"nobody is left{where}: the weights are the initialisation" if empty else "",
    )


def utility_check(
    new: Ensemble,
    parent: Ensemble | None,
    *,
    held_out: Sample,
    retained: Sample,
    max_drop: float,
    is_gate: bool = False,
    at_first: Mapping[str, JsonValue] | None = None,
) -> Check:
    """Return held-out and retained accuracy, before and after.

    It does not hold when either fell by more than ``max_drop``, or when a class has collapsed. ``at_first``
    is an accuracy from long before, against which none may have fallen further either.
    """
    samples = {"held_out": held_out, "retained": retained}
    after = {name: accuracy(new, sample) for name, sample in samples.items()}
    before: Shares = dict.fromkeys(samples)
    kept: Shares = dict.fromkeys(samples)
    if parent is not None:
        before = {name: accuracy(parent, sample) for name, sample in samples.items()}
        kept = {name: lowest_share_kept(new, parent, sample) for name, sample in samples.items()}
    problems = [
        *_said_of_fall(_fall(after, before), max_drop, since=""),
        *_said_of_fall(_fall(after, at_first or {}), max_drop, since=" since the model was registered"),
        *_said_of_classes(kept),
    ]
    figures: JsonObject = {
        "after": dict(after),
        "before": dict(before),
        "lowest_class_share_kept": dict(kept),
        "class_floor": CLASS_FLOOR,
        "num_held_out": len(held_out),
        "num_retained": len(retained),
        "max_drop_assumed": max_drop,
        **({} if at_first is None else {"at_first": dict(at_first)}),
    }
    return Check(
        name="utility",
        holds=not problems,
        is_gate=is_gate,
        power="says nothing about forgetting",
        figures=figures,
        problem="; ".join(problems),
    )


def _fall(after: Shares, earlier: Mapping[str, JsonValue]) -> float:
    """Return by how much accuracy fell where it fell most; 0 where nothing can be compared."""
    pairs = [(share, earlier.get(name)) for name, share in after.items()]
    falls = [
        before - share for share, before in pairs if share is not None and isinstance(before, float | int)
    ]
    return max(falls, default=0.0)


def _said_of_fall(fall: float, most: float, *, since: str) -> list[str]:
    """Say that accuracy fell too far; shares are kept to six places, and 1 - 0.98 is not 0.02."""
    is_beyond = round(fall - most, 6) > 0
    return [f"accuracy fell by {fall:.4f}{since}, more than {most}"] if is_beyond else []


def _said_of_classes(kept: Shares) -> list[str]:
    return [
        f"a class kept {share:.2f} of its accuracy on {name} records, less than {CLASS_FLOOR}"
        for name, share in kept.items()
        if share is not None and share < CLASS_FLOOR
    ]
