"""SCRUB: away from the original on the forgotten, towards it and the labels on the retained.

Kurmanji et al. 2023, "Towards Unbounded Machine Unlearning" (arXiv 2302.09880). The paper begins with the
forgotten, but there the net is the original still and the divergence has no gradient: here the retained come
first.
"""

from dataclasses import replace

from app.domain.methods import ScrubSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, forget_epoch, retain_epoch
from worker.unlearners.gradient.losses import CrossEntropy, Divergence
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.teachers import frozen_copy


def prepare(task: Task, settings: ScrubSettings) -> Prepared:
    """Return epochs of [gamma CE_r + alpha KL_r(original)], the first ``msteps`` with [-KL_f(original)]."""
    apart = Divergence(frozen_copy(task.net), temperature=settings.temperature)
    scale = settings.temperature**2
    forget = forget_epoch(task, settings, Term(Side.FORGET, apart, scale=-scale))
    forget = replace(forget, clip=settings.clip, lift=settings.lift, until=settings.msteps)
    retain = retain_epoch(
        task,
        settings,
        Term(Side.RETAIN, CrossEntropy(), scale=settings.gamma),
        Term(Side.RETAIN, apart, scale=settings.alpha * scale),
    )
    return Prepared(net=task.net, work=epoch_course([replace(retain, clip=settings.clip), forget], settings))


SCRUB = Method(
    name="scrub",
    source="Kurmanji et al. 2023, arXiv 2302.09880",
    settings=ScrubSettings,
    reads=frozenset({Reads.FORGET, Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
