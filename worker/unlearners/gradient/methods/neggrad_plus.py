"""NegGrad+: ascend on the forgotten and descend on the retained in one step.

Kurmanji et al. 2023, "Towards Unbounded Machine Unlearning" (arXiv 2302.09880), compare with it.
"""

from dataclasses import replace

from app.domain.methods import NeggradPlusSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, joint_epoch
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.stopping import looks_unseen


def prepare(task: Task, settings: NeggradPlusSettings) -> Prepared:
    """Return epochs of [(1 - a)(-CE_f) + a CE_r], with a look after each step."""
    share, loss = settings.retain_share, CrossEntropy()
    up, down = Term(Side.FORGET, loss, scale=share - 1.0), Term(Side.RETAIN, loss, scale=share)
    joint = joint_epoch(task, settings, up, down, clip=settings.clip)
    course = replace(
        epoch_course([replace(joint, steps=1, lift=settings.lift)], settings),
        repeats=settings.epochs * joint.steps,
        stop=looks_unseen(task.sides) if settings.stops else None,
    )
    return Prepared(net=task.net, work=course)


NEGGRAD_PLUS = Method(
    name="neggrad_plus",
    source="Kurmanji et al. 2023, arXiv 2302.09880",
    settings=NeggradPlusSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS, Reads.HELD_OUT}),
    prepare=prepare,
)
