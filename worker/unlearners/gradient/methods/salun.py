"""SalUn: random labels, and only the weights that the forgotten pull at move.

Fan et al. 2024, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency" (arXiv
2310.12508). The mask is hard: what it leaves out is bit-equal afterwards, whatever momentum and weight decay
would do.
"""

from dataclasses import replace

from app.domain.methods import SalunSettings
from worker.unlearners.gradient.course import Mask
from worker.unlearners.gradient.epochs import epoch_course
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.methods.random_label import relabelled_cycle
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.saliency import largest
from worker.unlearners.gradient.statistics import mean_gradient


def prepare(task: Task, settings: SalunSettings) -> Prepared:
    """Return epochs of random labels with every phase masked."""
    cycle = [replace(phase, is_masked=True) for phase in relabelled_cycle(task, settings)]
    mask = salient(task, share=settings.share)
    return Prepared(net=task.net, work=epoch_course(cycle, settings, mask=mask))


def salient(task: Task, *, share: float) -> Mask:
    """Return the weights with the largest |sum of the forget gradients|, at the original."""
    gradients = mean_gradient(task.net, CrossEntropy(), task.sides[Side.FORGET])
    return largest({name: gradient.abs() for name, gradient in gradients.items()}, share=share)


SALUN = Method(
    name="salun",
    source="Fan et al. 2024, arXiv 2310.12508",
    settings=SalunSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
