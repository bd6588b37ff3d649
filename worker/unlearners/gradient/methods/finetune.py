"""Finetuning: further epochs over the retained records, and nothing else.

The baseline of the literature: what fades by itself when the forgotten are not met any more.
"""

from app.domain.methods import FinetuneSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, retain_epoch
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side


def prepare(task: Task, settings: FinetuneSettings) -> Prepared:
    """Return epochs of [CE_r]."""
    retain = retain_epoch(task, settings, Term(Side.RETAIN, CrossEntropy()))
    return Prepared(net=task.net, work=epoch_course([retain], settings))


FINETUNE = Method(
    name="finetune",
    source="a baseline without a paper of its own; as in Jia et al. 2023, arXiv 2304.04934",
    settings=FinetuneSettings,
    reads=frozenset({Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
