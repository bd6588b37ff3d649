"""Finetuning towards a sparse net: CE_r + gamma_t |theta|_1.

Jia et al. 2023, "Model Sparsity Can Simplify Machine Unlearning" (arXiv 2304.04934).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from app.domain.methods import L1SparseSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, retain_epoch
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.records import Side


def prepare(task: Task, settings: L1SparseSettings) -> Prepared:
    """Return epochs of [CE_r + gamma_t |theta|_1]; gamma_t falls linearly from epoch to epoch."""

    def penalty(net: nn.Module, progress: float) -> Tensor:
        return settings.gamma * (1.0 - progress) * total_size(net)

    retain = retain_epoch(task, settings, Term(Side.RETAIN, CrossEntropy()))
    course = epoch_course([replace(retain, penalty=penalty)], settings)
    return Prepared(net=task.net, work=course)


def total_size(net: nn.Module) -> Tensor:
    """Return |theta|_1 over the weights that train."""
    return torch.stack([p.abs().sum() for p in net.parameters() if p.requires_grad]).sum()


L1_SPARSE = Method(
    name="l1_sparse",
    source="Jia et al. 2023, arXiv 2304.04934",
    settings=L1SparseSettings,
    reads=frozenset({Reads.RETAIN, Reads.RETAIN_LABELS}),
    prepare=prepare,
)
