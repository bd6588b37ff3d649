"""Accuracy on fixed samples, and the forgotten records beside matched unseen ones.

Both inform: an exact version is published even when accuracy falls, because refusing a lawful erasure
keeps the person in production; and a few records have no power to show that somebody was forgotten.

Shape suffixes: N records, K classes, * the shape of one input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.terms import JsonObject
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.evaluation.gates import Check

SAMPLE_RECORDS = 2_000
_CHUNK = 500


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


@torch.no_grad()
def logits_of(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits (N, K) in evaluation mode, in parts of a fixed size; the net's mode is kept.

    They are computed in float32, as the weights are served, whatever format the recipe trains in.
    """
    was_training = net.training
    net.eval()
    parts = [net(part) for part in inputs.split(_CHUNK)]
    net.train(was_training)
    return torch.cat(parts)


def accuracy(net: nn.Module, sample: Sample) -> float | None:
    """Return the share of records whose label is the largest logit; None for an empty sample."""
    if not len(sample):
        return None
    hits = logits_of(net, sample.inputs).argmax(dim=1) == sample.labels
    return round(float(hits.double().mean()), 6)


def remainder_check(num_training_records: int) -> Check:
    """Flag a version that had nothing left to train on: its weights are the initialisation."""
    return Check(
        name="remainder",
        holds=num_training_records > 0,
        is_gate=False,
        power="certain",
        figures={"num_training_records": num_training_records},
        problem="" if num_training_records else "nobody is left: the weights are the initialisation",
    )


def utility_check(
    new: nn.Module, parent: nn.Module | None, *, held_out: Sample, retained: Sample, max_drop: float
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


def person_check(new: nn.Module, parent: nn.Module | None, *, forgotten: Sample, unseen: Sample) -> Check:
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


def _figures(net: nn.Module, sample: Sample) -> JsonObject | None:
    if not len(sample):
        return None
    log_shares = F.log_softmax(logits_of(net, sample.inputs).double(), dim=1)
    own = log_shares.gather(1, sample.labels.unsqueeze(1)).squeeze(1)
    return {
        "mean_loss_nats": round(float(-own.mean()), 6),
        "mean_confidence": round(float(own.exp().mean()), 6),
    }
