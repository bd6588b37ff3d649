"""Random labels for the forgotten, in one training with the retained.

Golatkar et al. 2020, "Eternal Sunshine of the Spotless Net" (arXiv 1911.04933), compare with it.
"""

import torch

from app.domain.methods import RandomLabelSettings
from worker.unlearners.gradient.course import Phase, Term
from worker.unlearners.gradient.epochs import epoch_course, forget_epoch, joint_epoch, retain_epoch
from worker.unlearners.gradient.losses import CrossEntropy, Loss, RandomLabels, Relabelled
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side, seed_of


def prepare(task: Task, settings: RandomLabelSettings) -> Prepared:
    """Return epochs of [CE_f(random) + CE_r], or of [CE_f(random)], [CE_r]."""
    return Prepared(net=task.net, work=epoch_course(relabelled_cycle(task, settings), settings))


def relabelled_cycle(task: Task, settings: RandomLabelSettings) -> list[Phase]:
    """Return the phases of one epoch."""
    forget = Term(Side.FORGET, random_labels(task, settings))
    retain = Term(Side.RETAIN, CrossEntropy())
    if settings.order == "joint":
        return [joint_epoch(task, settings, forget, retain)]
    return [forget_epoch(task, settings, forget), retain_epoch(task, settings, retain)]


def random_labels(task: Task, settings: RandomLabelSettings) -> Loss:
    """Return the loss that draws labels as it goes, or the one of labels drawn here once."""
    drawing = RandomLabels(task.num_classes, exclude_true=settings.exclude_true)
    if settings.redraw:
        return drawing
    records = task.sides[Side.FORGET]
    everyone_N = torch.arange(len(records))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(task.seed, "labels"))
        return Relabelled(drawing.aims(records, everyone_N, everyone_N))


RANDOM_LABEL = Method(
    name="random_label",
    source="Golatkar et al. 2020, arXiv 1911.04933",
    settings=RandomLabelSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
