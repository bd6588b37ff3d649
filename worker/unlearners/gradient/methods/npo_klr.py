"""Negative preference on the forgotten, and KL to the original on the retained.

Zhang et al. 2024, "Negative Preference Optimization" (arXiv 2404.05868). The paper is on language models;
of a classifier the likelihood is the share of the label, over log-softmax.
"""

from app.domain.methods import NpoKlrSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, joint_epoch
from worker.unlearners.gradient.losses import Divergence, NegativePreference
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.teachers import frozen_copy


def prepare(task: Task, settings: NpoKlrSettings) -> Prepared:
    """Return epochs of [NPO_f + weight KL_r(original)]."""
    original = frozen_copy(task.net)
    forget = Term(Side.FORGET, NegativePreference(original, settings.beta))
    retain = Term(Side.RETAIN, Divergence(original), scale=settings.retain_weight)
    joint = joint_epoch(task, settings, forget, retain, clip=settings.clip)
    return Prepared(net=task.net, work=epoch_course([joint], settings))


NPO_KLR = Method(
    name="npo_klr",
    source="Zhang et al. 2024, arXiv 2404.05868",
    settings=NpoKlrSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN}),
    prepare=prepare,
)
