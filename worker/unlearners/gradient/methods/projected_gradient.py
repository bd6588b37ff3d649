"""Gradient-projection unlearning (PGU): forget along directions that retained records do not feel.

Hoang et al. 2024, "Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning Interference with
Gradient Projection" (arXiv 2312.04095). The subspace is that of each layer's inputs, measured once on the
original net, so after the first step it holds to first order only. The forget loss is ours: see
``Unlikelihood``.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from app.domain.methods import Descent, ProjectedGradientSettings
from worker.unlearners.gradient.course import Course, Mode, Phase, Term
from worker.unlearners.gradient.losses import Forward, widened
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task, optimizer_of
from worker.unlearners.gradient.records import Records, Side
from worker.unlearners.gradient.stopping import looks_unseen
from worker.unlearners.gradient.subspace import ProjectOff, kept_inputs, layers_of


@dataclass(frozen=True)
class Unlikelihood:
    """-log(1 - p(label)), descended (Welleck et al. 2019, arXiv 1908.04319).

    It ends at 0 where ascent on -log p would run away, and its gradient by the label's logit is p: largest
    where the record is fitted fully, where that of -log p is nothing.
    """

    needs_targets: bool = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the records' labels (B,)."""
        return records.targets(indices_B)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        logits_BK = widened(forward(inputs))
        is_label_BK = F.one_hot(aims, logits_BK.shape[-1]).bool()
        return logits_BK.logsumexp(-1) - logits_BK.masked_fill(is_label_BK, float("-inf")).logsumexp(-1)


def prepare(task: Task, settings: ProjectedGradientSettings) -> Prepared:
    """Return the course; the subspace is measured on the original net."""
    kept = kept_inputs(task.net, task.sides[Side.RETAIN], energy=settings.energy)
    forget = Phase(
        name="forget",
        terms=(Term(Side.FORGET, Unlikelihood()),),
        optimizer="forget",
        mode=Mode.EVAL,
        clip=settings.clip,
        project=ProjectOff(layers_of(task.net), kept),
    )
    # Plain SGD with momentum stays in the span of what it was given; decay or AdamW would leave it.
    descent = Descent(learning_rate=settings.learning_rate, momentum=settings.momentum)
    course = Course(
        cycle=(forget,),
        repeats=settings.steps,
        optimizers={"forget": optimizer_of(descent)},
        batch_sizes={Side.FORGET: settings.batch_size},
        stop=looks_unseen(task.sides) if settings.stops else None,
    )
    return Prepared(net=task.net, work=course)


PROJECTED_GRADIENT = Method(
    name="projected_gradient",
    source="Hoang et al. 2024, arXiv 2312.04095",
    settings=ProjectedGradientSettings,
    reads=frozenset({Reads.FORGET, Reads.FORGET_LABELS, Reads.RETAIN, Reads.HELD_OUT}),
    prepare=prepare,
)
