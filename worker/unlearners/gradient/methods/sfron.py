"""SFR-on: ascend on the forgotten, weighted and masked, then descend on the retained, in a slow-fast cycle.

Huang et al. 2024, "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement" (arXiv
2409.19732). Written from the paper; where the defaults differ from the published settings, the settings say.
"""

from dataclasses import replace

import torch
from torch import Tensor

from app.domain.methods import SfronSettings
from worker.training.recipe import SchedulePart
from worker.unlearners.gradient.course import Course, Fade, Mask, Mode, Phase, Stop, Term
from worker.unlearners.gradient.losses import CrossEntropy, Loss
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task, optimizer_of
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.saliency import carried, fisher_ratio, fisher_shares
from worker.unlearners.gradient.statistics import Weights, batch_squares, mean_squares
from worker.unlearners.gradient.stopping import looks_unseen

# Least share of the forgotten's Fisher information on the weights that a mask lets move.
LEAST_CARRIED = 0.01


def adaptive_weights(losses_B: Tensor, *, floor_nats: float, power: float) -> Tensor:
    """Return max(loss, floor)^-power, of mean 1 over the batch: records that are fitted best weigh most.

    Without a floor a loss of exactly 0, which float32 gives a fitted record, would take all the weight and
    give no gradient.
    """
    raw_B = losses_B.clamp_min(max(floor_nats, torch.finfo(losses_B.dtype).tiny)) ** -power
    return raw_B / raw_B.mean()


def prepare(task: Task, settings: SfronSettings) -> Prepared:
    """Return the course; the mask is measured on the original net."""
    loss = CrossEntropy()
    mask = saliency(task, settings, of_forget=loss, of_retain=loss)
    stop = looks_unseen(task.sides) if settings.stops else None
    return Prepared(net=task.net, work=course(settings, loss=loss, mask=mask, stop=stop))


def course(settings: SfronSettings, *, loss: Loss, mask: Mask, stop: Stop | None) -> Course:
    """Return the course for any loss of single records."""

    def weigh(losses_B: Tensor) -> Tensor:
        return adaptive_weights(losses_B, floor_nats=settings.floor_nats, power=settings.power)

    forget = Phase(
        name="forget",
        terms=(Term(Side.FORGET, loss, scale=-settings.forget_rate, weigh=weigh),),
        optimizer="retain" if settings.shares_optimizer else "forget",
        is_masked=True,
        clip=settings.clip,
        lift=settings.lift,
        mode=Mode.FROZEN_NORM,
        fade=Fade.COSINE,
    )
    retain = Phase(
        name="retain",
        terms=(Term(Side.RETAIN, loss),),
        steps=settings.retain_steps,
        clip=settings.retain_clip or None,
    )
    decay = max(settings.retain.weight_decay, settings.erase_decay)
    erase = replace(retain, name="erase", steps=settings.erase_steps, optimizer="erase")
    falling = SchedulePart(name="cosine")
    repair = replace(retain, name="repair", steps=settings.repair_steps, schedule=falling)
    return Course(
        cycle=(forget, retain) if settings.retain_steps else (forget,),
        repeats=settings.cycles,
        optimizers={
            "forget": optimizer_of(settings.forget),
            "retain": optimizer_of(settings.retain),
            "erase": optimizer_of(replace(settings.retain, weight_decay=decay)),
        },
        batch_sizes={Side.FORGET: settings.batch_size, Side.RETAIN: settings.batch_size},
        saliency=mask,
        slow_rate=settings.slow_rate,
        stop=stop,
        ending=tuple(phase for phase in (erase, repair) if phase.steps),
        most_endings=settings.repairs,
    )


def saliency(task: Task, settings: SfronSettings, *, of_forget: Loss, of_retain: Loss) -> Mask:
    """Return the mask, measured on the net as it is.

    Of people who are fitted better than others every weight that says anything of them says more of others:
    the ratio lets only weights move that nobody depends on. Either side's share of its own sum is compared
    then. The released settings keep the ratio.
    """
    forget, retain = (
        _fisher(task, side, settings, loss=loss)
        for side, loss in ((Side.FORGET, of_forget), (Side.RETAIN, of_retain))
    )
    mask = fisher_ratio(forget, retain, gamma=settings.gamma)
    if settings.fisher == "record" and carried(mask, forget) < LEAST_CARRIED:
        return fisher_shares(forget, retain, gamma=settings.gamma)
    return mask


def _fisher(task: Task, side: Side, settings: SfronSettings, *, loss: Loss) -> Weights:
    if settings.fisher == "batch":
        return batch_squares(task.net, loss, task.sides[side], batch=settings.batch_size)
    return mean_squares(task.net, loss, task.sides[side])


SFRON = Method(
    name="sfron",
    source="Huang et al. 2024, arXiv 2409.19732",
    settings=SfronSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS, Reads.HELD_OUT}),
    prepare=prepare,
)
