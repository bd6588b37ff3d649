"""Accuracy on fixed samples, and the forgotten records beside matched unseen ones.

A version is judged as it is served: all constituents together, by the rule of its manifest.

Both inform: an exact version is published even when accuracy falls, because refusing a lawful erasure
keeps the person in production; and a few records have no power to show that somebody was forgotten.

Shape suffixes: N records, * the shape of one input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.domain.terms import JsonObject
from models_store.ensemble import Ensemble
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.evaluation.gates import Check

SAMPLE_RECORDS = 2_000


@dataclass(frozen=True)
class Sample:
    """Inputs (N, *) and labels (N,) of a fixed choice of records."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def sample_of(loader: Loader, table: RecordTable, *, num: int = SAMPLE_RECORDS) -> Sample:
    """Return a fixed sample of a table: the same records for every version that retains them."""
    inputs, labels = loader.select(table.first(num))
    return Sample(inputs=inputs, labels=labels)


def accuracy(version: Ensemble, sample: Sample) -> float | None:
    """Return the share of records whose label the version chooses; None for an empty sample."""
    if not len(sample):
        return None
    hits = version.labels(sample.inputs) == sample.labels
    return round(float(hits.double().mean()), 6)


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
    new: Ensemble, parent: Ensemble | None, *, held_out: Sample, retained: Sample, max_drop: float
) -> Check:
    """Return held-out and retained accuracy, before and after; beyond ``max_drop`` it warns."""
    after = {"held_out": accuracy(new, held_out), "retained": accuracy(new, retained)}
    before = {
        "held_out": None if parent is None else accuracy(parent, held_out),
        "retained": None if parent is None else accuracy(parent, retained),
    }
    drops = [
        b - a for a, b in zip(after.values(), before.values(), strict=True) if a is not None and b is not None
    ]
    worst = max(drops, default=0.0)
    figures: JsonObject = {
        "after": dict(after),
        "before": dict(before),
        "num_held_out": len(held_out),
        "num_retained": len(retained),
        "max_drop_assumed": max_drop,
    }
    return Check(
        name="utility",
        holds=worst <= max_drop,
        is_gate=False,
        power="says nothing about forgetting",
        figures=figures,
        problem=f"accuracy fell by {worst:.4f}, more than {max_drop}" if worst > max_drop else "",
    )


def person_check(new: Ensemble, parent: Ensemble | None, *, forgotten: Sample, unseen: Sample) -> Check:
    """Return loss and confidence of the forgotten records beside unseen ones of the same labels."""
    matched = _matched(unseen, labels=forgotten.labels)
    figures: JsonObject = {
        "num_records": len(forgotten),
        "forgotten_after": _figures(new, forgotten),
        "forgotten_before": None if parent is None else _figures(parent, forgotten),
        "unseen_after": _figures(new, matched),
        "num_unseen": len(matched),
    }
    power = "none for so few records: context, two-sided, never proof of forgetting"
    return Check(name="person", holds=True, is_gate=False, power=power, figures=figures)


def _matched(unseen: Sample, *, labels: Tensor) -> Sample:
    same = torch.isin(unseen.labels, labels.unique())
    return Sample(inputs=unseen.inputs[same], labels=unseen.labels[same])


def _figures(version: Ensemble, sample: Sample) -> JsonObject | None:
    if not len(sample):
        return None
    own = sample.labels.unsqueeze(1)
    log_shares = version.log_probabilities(sample.inputs).gather(1, own)
    shares = version.probabilities(sample.inputs).gather(1, own)
    return {
        "mean_loss_nats": round(float(-log_shares.mean()), 6),
        "mean_confidence": round(float(shares.mean()), 6),
    }
