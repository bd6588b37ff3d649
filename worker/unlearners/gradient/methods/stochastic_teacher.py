"""Stochastic teacher: first a net that has learned nothing teaches, then the original restores.

Zhang et al. 2023, "Machine Unlearning Methodology base on Stochastic Teacher Network" (arXiv 2308.14322).
"""

from dataclasses import replace

from app.domain.methods import StochasticTeacherSettings
from worker.unlearners.gradient.epochs import epoch_course, forget_epoch, retain_epoch
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.methods.bad_teacher import teaching


def prepare(task: Task, settings: StochasticTeacherSettings) -> Prepared:
    """Return epochs of [KL_f(random net)], all before the first of the epochs of [KL_r(original)]."""
    bad, good = teaching(task, temperature=settings.temperature)
    erase = forget_epoch(task, settings, bad)
    erase = replace(erase, steps=erase.steps * settings.erase_epochs, until=1)
    return Prepared(net=task.net, work=epoch_course([erase, retain_epoch(task, settings, good)], settings))


STOCHASTIC_TEACHER = Method(
    name="stochastic_teacher",
    source="Zhang et al. 2023, arXiv 2308.14322",
    settings=StochasticTeacherSettings,
    reads=frozenset({Reads.FORGET, Reads.RETAIN}),
    prepare=prepare,
)
