"""Boundary Expand: the forgotten move into a class of their own, which is then cut off.

Chen et al. 2023, "Boundary Unlearning" (arXiv 2303.11570). The net that is trained is a copy with one output
more; the net that is published has the original number. Neither the retained nor any label is read.
"""

import copy

import torch
from torch import nn

from app.domain.methods import BoundaryExpandSettings
from worker.unlearners.gradient.course import Term
from worker.unlearners.gradient.epochs import epoch_course, forget_epoch
from worker.unlearners.gradient.losses import Relabelled
from worker.unlearners.gradient.method import Method, MethodDoesNotFit, Prepared, Reads, Task
from worker.unlearners.gradient.records import Records, Side, seed_of
from worker.unlearners.gradient.statistics import untouched


def prepare(task: Task, settings: BoundaryExpandSettings) -> Prepared:
    """Return epochs of [CE_f(extra class)] on the expanded copy, which loses that class at the end.

    Raises:
        MethodDoesNotFit: the net does not end in a linear layer with one output a class.
    """
    records, num_classes = task.sides[Side.FORGET], task.num_classes
    net = expanded(task.net, num_classes=num_classes, seed=seed_of(task.seed, "extra class"))
    _check(net, records, num_classes=num_classes + 1)
    extra_N = torch.full((len(records),), num_classes)
    forget = forget_epoch(task, settings, Term(Side.FORGET, Relabelled(extra_N)))
    return Prepared(
        net=net,
        work=epoch_course([forget], settings),
        finish=lambda trained: pruned(trained, num_classes=num_classes),
    )


def expanded(net: nn.Module, *, num_classes: int, seed: int) -> nn.Module:
    """Return a copy with one output more; its weights are drawn as a new layer's, the others are kept."""
    made = copy.deepcopy(net)
    head = _head(made, num_outputs=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        extra = nn.Linear(head.in_features, 1, dtype=head.weight.dtype).to(head.weight.device)
    head.weight = nn.Parameter(torch.cat([head.weight, extra.weight]).detach())
    if head.bias is not None:
        head.bias = nn.Parameter(torch.cat([head.bias, extra.bias]).detach())
    head.out_features = num_classes + 1
    return made


def pruned(net: nn.Module, *, num_classes: int) -> nn.Module:
    """Return a copy without the last output."""
    made = copy.deepcopy(net)
    head = _head(made, num_outputs=num_classes + 1)
    head.weight = nn.Parameter(head.weight[:num_classes].detach().clone())
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[:num_classes].detach().clone())
    head.out_features = num_classes
    return made


def _head(net: nn.Module, *, num_outputs: int) -> nn.Linear:
    heads = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == num_outputs]
    if not heads:
        raise MethodDoesNotFit(f"the net has no linear layer with {num_outputs} outputs to expand")
    return heads[-1]


def _check(net: nn.Module, records: Records, *, num_classes: int) -> None:
    with untouched(net), torch.no_grad():
        logits_1K: torch.Tensor = net(records.inputs(torch.arange(1)))
    if logits_1K.shape != (1, num_classes):
        raise MethodDoesNotFit("the last linear layer of the net is not what it answers with")


BOUNDARY_EXPAND = Method(
    name="boundary_expand",
    source="Chen et al. 2023, arXiv 2303.11570",
    settings=BoundaryExpandSettings,
    reads=frozenset({Reads.FORGET}),
    prepare=prepare,
)
