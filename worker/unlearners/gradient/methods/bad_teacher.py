"""Bad teacher: on the forgotten a net that has learned nothing, on the retained the original.

Chundawat et al. 2023, "Can Bad Teaching Induce Forgetting?" (arXiv 2205.08096).
"""

from dataclasses import replace

from app.domain.methods import BadTeacherSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, joint_epoch
from worker.unlearners.gradient.losses import Divergence
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side, seed_of
from worker.unlearners.gradient.teachers import frozen_copy, newly_initialised


def prepare(task: Task, settings: BadTeacherSettings) -> Prepared:
    """Return epochs of [KL_f(random net) + KL_r(original)]: each record counts once, as in one mixed set."""
    num_forget, num_retain = len(task.sides[Side.FORGET]), len(task.sides[Side.RETAIN])
    bad, good = teaching(task, temperature=settings.temperature)
    total = num_forget + num_retain
    shares = replace(bad, scale=num_forget / total), replace(good, scale=num_retain / total)
    joint = joint_epoch(task, settings, *shares)
    batch = -(-num_forget // joint.steps)
    return Prepared(net=task.net, work=epoch_course([joint], settings, forget_batch=batch))


def teaching(task: Task, *, temperature: float) -> tuple[Term, Term]:
    """Return what the net that has learned nothing teaches, and what the original does."""
    bad = newly_initialised(task.net, seed=seed_of(task.seed, "teacher"))
    return (
        Term(Side.FORGET, Divergence(bad, temperature=temperature)),
        Term(Side.RETAIN, Divergence(frozen_copy(task.net), temperature=temperature)),
    )


BAD_TEACHER = Method(
    name="bad_teacher",
    source="Chundawat et al. 2023, arXiv 2205.08096",
    settings=BadTeacherSettings,
    reads=frozenset({Reads.FORGET, Reads.RETAIN}),
    prepare=prepare,
)
