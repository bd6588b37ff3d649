"""The forgotten records beside matched unseen ones, and a forgotten class beside itself before.

These figures gate nothing: a few records have no power to show that somebody was forgotten.

Shape suffixes: N records, K classes, F of those that were forgotten, U unseen.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from app.domain.terms import JsonObject, JsonValue
from models_store.ensemble import Ensemble
from worker.evaluation.gates import Check
from worker.evaluation.utility import Sample

# Forgotten and unseen losses differ when their means lie so many standard errors apart, and so many nats.
NUM_ERRORS = 2.0
LEAST_MARGIN_NATS = 0.05
POWER_OF_PEOPLE = "none for so few records: context, two-sided, never proof of forgetting"
POWER_OF_CLASS = (
    "of a class: shows whether its label is still given, by the confidence before and after; of single "
    "records in it nothing"
)


def person_check(
    new: Ensemble,
    parent: Ensemble | None,
    *,
    forgotten: Sample,
    unseen: Sample,
    warns: bool = False,
    classes: Collection[int] = (),
    earlier_classes: Collection[int] = (),
) -> Check:
    """Return loss and confidence of the forgotten records beside unseen ones of the same labels.

    Two-sided: where it ``warns``, a loss far above that of unseen records (forgotten too much, which is a
    trace as well) and one far below (remembered, or easy) are both said. It never gates. Records of whole
    ``classes`` that were forgotten have no unseen ones beside them, and are shown class by class; but for
    ``earlier_classes``, of which a single person may be left to forget, whose label would be told.
    """
    whole = forgotten.labels.new_tensor(sorted({*classes, *earlier_classes}))
    people = forgotten.chosen(~torch.isin(forgotten.labels, whole))
    matched = _matched(unseen, labels=people.labels)
    gap, margin = _gap_and_margin(new, people, matched)
    problem = _said_of_gap(gap, margin) if warns else ""
    shown = _of_classes(new, parent, forgotten, {*classes} - {*earlier_classes})
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


def _of_classes(
    new: Ensemble, parent: Ensemble | None, forgotten: Sample, classes: Collection[int]
) -> list[JsonValue]:
    """Return the figures of each class that some of the forgotten are of."""
    parts = [(label, forgotten.chosen(forgotten.labels == label)) for label in sorted(classes)]
    return [
        {
            "label": label,
            "num_records": len(own),
            "after": _figures(new, own),
            "before": None if parent is None else _figures(parent, own),
        }
        for label, own in parts
        if len(own)
    ]


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
