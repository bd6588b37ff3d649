"""Gradient ascent on the forgotten records, until they look unseen.

Golatkar et al. 2020 (arXiv 1911.04933) and Thudi et al. 2022 (arXiv 2109.13398) compare with it. Alone it
collapses or does nothing, so its gradient is bounded from both sides and a rule ends it.
"""

from app.domain.methods import GradientAscentSettings
from worker.unlearners.gradient.course import Course, Mode, Phase, Term
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task, optimizer_of
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.stopping import looks_unseen


def prepare(task: Task, settings: GradientAscentSettings) -> Prepared:
    """Return steps of [-CE_f], with a look after each."""
    ascent = Phase(
        name="forget",
        terms=(Term(Side.FORGET, CrossEntropy(), scale=-1.0),),
        optimizer="forget",
        clip=settings.clip,
        lift=settings.lift,
        mode=Mode.EVAL,
    )
    course = Course(
        cycle=(ascent,),
        repeats=settings.steps,
        optimizers={"forget": optimizer_of(settings.descent)},
        batch_sizes={Side.FORGET: settings.batch_size},
        stop=looks_unseen(task.sides) if settings.stops else None,
    )
    return Prepared(net=task.net, work=course)


GRADIENT_ASCENT = Method(
    name="gradient_ascent",
    source="Thudi et al. 2022, arXiv 2109.13398",
    settings=GradientAscentSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.HELD_OUT}),
    prepare=prepare,
)
