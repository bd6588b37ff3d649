"""Accuracy on fixed samples, and the forgotten records beside matched unseen ones.

A version is judged as it is served: all constituents together, by the rule of its manifest.

Accuracy gates empirical versions. An exact one is published even when accuracy falls, because refusing a
lawful erasure keeps the person in production. The person's figures gate nothing: a few records have no power
to show that somebody was forgotten.

Shape suffixes: N records, K classes, * the shape of one input.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
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
# Forgotten and unseen losses differ when their means lie so many standard errors apart, and so many nats.
NUM_ERRORS = 2.0
LEAST_MARGIN_NATS = 0.05
POWER_OF_PEOPLE = "none for so few records: context, two-sided, never proof of forgetting"
POWER_OF_CLASS = (
    "of a class: shows whether its label is still given, by the confidence before and after; of single "
    "records in it nothing"
)


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
    after = {"held_out": accuracy(new, held_out), "retained": accuracy(new, retained)}
    before = {
        "held_out": None if parent is None else accuracy(parent, held_out),
        "retained": None if parent is None else accuracy(parent, retained),
    }
    drops = [
        b - a for a, b in zip(after.values(), before.values(), strict=True) if a is not None and b is not None
    ]
    worst = max(drops, default=0.0)
    samples = {"held_out": held_out, "retained": retained}
    kept = {
        name: None if parent is None else lowest_share_kept(new, parent, sample)
        for name, sample in samples.items()
    }
    problems = [f"accuracy fell by {worst:.4f}, more than {max_drop}"] if _is_beyond(worst, max_drop) else []
    lost = max((first - a for a, first in _pairs(after, at_first or {})), default=0.0)
    if _is_beyond(lost, max_drop):
        problems.append(f"accuracy fell by {lost:.4f} since the model was registered, more than {max_drop}")
    problems += [
        f"a class kept {share:.2f} of its accuracy on {name} records, less than {CLASS_FLOOR}"
        for name, share in kept.items()
        if share is not None and share < CLASS_FLOOR
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


def _pairs(
    after: Mapping[str, float | None], at_first: Mapping[str, JsonValue]
) -> Iterator[tuple[float, float]]:
    for name, share in after.items():
        first = at_first.get(name)
        if share is not None and isinstance(first, float | int):
            yield share, float(first)


def _is_beyond(drop: float, most: float) -> bool:
    """Whether a drop is more than allowed; shares are kept to six places, and 1 - 0.98 is not 0.02."""
    return round(drop - most, 6) > 0


def person_check(
    new: Ensemble,
    parent: Ensemble | None,
    *,
    forgotten: Sample,
    unseen: Sample,
    warns: bool = False,
    classes: Collection[int] = (),
) -> Check:
    """Return loss and confidence of the forgotten records beside unseen ones of the same labels.

    Two-sided: where it ``warns``, a loss far above that of unseen records (forgotten too much, which is a
    trace as well) and one far below (remembered, or easy) are both said. It never gates. Records of whole
    ``classes`` that were forgotten have no unseen ones beside them, and are shown class by class.
    """
    of_classes = {label: forgotten.chosen(forgotten.labels == label) for label in sorted(classes)}
    people = forgotten.chosen(~torch.isin(forgotten.labels, forgotten.labels.new_tensor(sorted(classes))))
    matched = _matched(unseen, labels=people.labels)
    gap, margin = _gap_and_margin(new, people, matched)
    problem = _said_of_gap(gap, margin) if warns else ""
    shown: list[JsonValue] = [
        {
            "label": label,
            "num_records": len(own),
            "after": _figures(new, own),
            "before": None if parent is None else _figures(parent, own),
        }
        for label, own in of_classes.items()
        if len(own)
    ]
    figures: JsonObject = {
        "loss_gap_nats": gap,
        "margin_nats": margin,
        "num_records": len(forgotten),
        "forgotten_after": _figures(new, forgotten),
        "forgotten_before": None if parent is None else _figures(parent, forgotten),
        "unseen_after": _figures(new, matched),
        "num_unseen": len(matched),
        **({"classes": shown} if shown else {}),
    }
    powers = [POWER_OF_CLASS] * bool(shown) + [POWER_OF_PEOPLE] * (len(people) > 0 or not shown)
    return Check(
        name="person",
        holds=not problem,
        is_gate=False,
        power="; ".join(powers),
        figures=figures,
        problem=problem,
    )


def _gap_and_margin(
    version: Ensemble, forgotten: Sample, unseen: Sample
) -> tuple[float, float] | tuple[None, None]:
    """Return how far the forgotten records' mean loss lies above the unseen ones', and what is far."""
    if not len(forgotten) or len(unseen) < 2:
        return None, None
    gone_F, never_U = _losses(version, forgotten), _losses(version, unseen)
    error = float(never_U.std()) * (1 / len(gone_F) + 1 / len(never_U)) ** 0.5
    gap = float(gone_F.mean() - never_U.mean())
    return round(gap, 6), round(max(LEAST_MARGIN_NATS, NUM_ERRORS * error), 6)


def _said_of_gap(gap: float | None, margin: float | None) -> str:
    if gap is None or margin is None or abs(gap) <= margin:
        return ""
    side, meaning = ("above", "forgotten too much") if gap > 0 else ("below", "remembered, or easy")
    return (
        f"the forgotten records' loss lies {abs(gap):.4f} nats {side} that of unseen ones, more than "
        f"{margin:.4f}: {meaning}"
    )


def _matched(unseen: Sample, *, labels: Tensor) -> Sample:
    return unseen.chosen(torch.isin(unseen.labels, labels.unique()))


def _figures(version: Ensemble, sample: Sample) -> JsonObject | None:
    if not len(sample):
        return None
    shares = version.probabilities(sample.inputs).gather(1, sample.labels.unsqueeze(1))
    return {
        "mean_loss_nats": round(float(_losses(version, sample).mean()), 6),
        "mean_confidence": round(float(shares.mean()), 6),
    }


def _losses(version: Ensemble, sample: Sample) -> Tensor:
    """Return the loss of each record (N,) in nats."""
    log_shares_NK = version.log_probabilities(sample.inputs)
    return -log_shares_NK.gather(1, sample.labels.unsqueeze(1)).squeeze(1)
