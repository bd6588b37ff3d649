"""Residual feature alignment: low-rank adapters learn no residual on the retained, a shift on the forgotten.

Qin et al. 2024, "Machine Unlearning on Pre-trained Models by Residual Feature Alignment Using LoRA" (arXiv
2411.08443); adapters after Hu et al. 2021 (arXiv 2106.09685). Features are the inputs of the last linear
layer. A forgotten record is shifted to the original's features of the retained record whose input is nearest,
which is our choice: it is what a net says of somebody that it has not met.

Promises: only adapters learn, on a copy; the base is bit-equal to the original until ``finish`` merges them,
and a base that is not merged has forgotten nothing. Afterwards the net has the original's names and classes.

Shape suffixes: B records, D features, F forgotten records, R rank, O rows and I columns of a weight.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from app.domain.methods import LoraResidualSettings
from worker.unlearners.gradient.course import Course, Mode, Phase, Term
from worker.unlearners.gradient.losses import Forward
from worker.unlearners.gradient.method import Method, MethodDoesNotFit, Prepared, Reads, Task, optimizer_of
from worker.unlearners.gradient.records import Records, Side, chunks, seed_of
from worker.unlearners.gradient.stopping import looks_unseen

CHUNK_RECORDS = 512


class Adapter(nn.Module):
    """W + (scale / R) B A over the weight as a matrix (O, I); B starts at zero, so nothing has moved yet."""

    def __init__(self, weight: Tensor, *, rank: int, scale: float, seed: int) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        own = min(rank, rows, columns)
        generator = torch.Generator().manual_seed(seed)
        down_RI = torch.randn(own, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
        self.down_RI = nn.Parameter(down_RI.to(weight))
        self.up_OR = nn.Parameter(torch.zeros(rows, own, dtype=weight.dtype, device=weight.device))
        self.factor = scale / own

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + (self.factor * self.up_OR @ self.down_RI).reshape(weight.shape)


def features(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return what the last linear layer is given, (B, D), with its gradient."""
    kept: list[Tensor] = []
    layer = net.get_submodule(_names(net)[-1])
    handle = layer.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        net(inputs)
    finally:
        handle.remove()
    return kept[-1].flatten(1)


@dataclass(frozen=True)
class Residual:
    """|features - aim|^2 of each record, in units of the mean square of all the aims' numbers.

    Aims are the teacher's features of the record itself, or of the one that stands in its place.
    """

    teacher: nn.Module
    places: Tensor | None = None
    others: Records | None = None
    needs_targets: bool = False

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the features to come to (B, D)."""
        with torch.no_grad():
            if self.places is None or self.others is None:
                return features(self.teacher, inputs)
            return features(self.teacher, self.others.inputs(self.places[indices_B]))

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        assert isinstance(forward, nn.Module), "features are taken inside a net"
        off_BD = features(forward, inputs) - aims
        return (off_BD**2).mean(1) / (aims**2).mean().clamp_min(torch.finfo(aims.dtype).tiny)


def adapted(net: nn.Module, settings: LoraResidualSettings, *, seed: int) -> nn.Module:
    """Return a copy with frozen weights, and an adapter on each layer before the last.

    Raises:
        MethodDoesNotFit: no layer stands before the last linear one.
    """
    made = copy.deepcopy(net).requires_grad_(False)
    before = _names(made)[:-1]
    if not before:
        raise MethodDoesNotFit("the net has no features: it needs a layer before its last linear one")
    for name in before:
        layer, weight = made.get_submodule(name), made.get_parameter(f"{name}.weight")
        own_seed = seed_of(seed, "lora", name)
        adapter = Adapter(weight, rank=settings.rank, scale=settings.scale, seed=own_seed)
        parametrize.register_parametrization(layer, "weight", adapter)
    return made


def merged(net: nn.Module, *, original: nn.Module) -> nn.Module:
    """Return a copy of the original with the adapted weights: its names in their order, its classes."""
    adapted_net = copy.deepcopy(net)
    for module in list(adapted_net.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    made = copy.deepcopy(original)
    made.load_state_dict(adapted_net.state_dict())
    return made


def nearest(forget: Records, retain: Records) -> Tensor:
    """Return for each forgotten record the index of the retained one of nearest input (F,)."""
    return torch.cat([_nearest_of(forget.inputs(own_B), retain) for own_B in _parts(forget)])


def _nearest_of(inputs: Tensor, retain: Records) -> Tensor:
    own = inputs.flatten(1)
    best_B = torch.full((len(own),), math.inf, dtype=own.dtype)
    places_B = torch.zeros(len(own), dtype=torch.int64)
    for indices_B in _parts(retain):
        found = torch.cdist(own, retain.inputs(indices_B).flatten(1)).cpu().min(1)
        is_nearer_B = found.values < best_B
        best_B = found.values.where(is_nearer_B, best_B)
        places_B = indices_B[found.indices].where(is_nearer_B, places_B)
    return places_B


def _parts(records: Records) -> Iterator[Tensor]:
    return chunks(records, size=CHUNK_RECORDS)


def prepare(task: Task, settings: LoraResidualSettings) -> Prepared:
    """Return the course on an adapted copy, whose adapters are merged at the end."""
    teacher = copy.deepcopy(task.net).eval().requires_grad_(False)
    forget, retain = task.sides[Side.FORGET], task.sides[Side.RETAIN]
    shift = Residual(teacher, places=nearest(forget, retain), others=retain)
    terms = (
        Term(Side.FORGET, shift, scale=settings.forget_weight),
        Term(Side.RETAIN, Residual(teacher)),
    )
    course = Course(
        cycle=(Phase("align", terms, mode=Mode.EVAL, optimizer="adapters"),),
        repeats=settings.steps,
        optimizers={"adapters": optimizer_of(settings.descent)},
        batch_sizes={Side.FORGET: settings.batch_size, Side.RETAIN: settings.batch_size},
        stop=looks_unseen(task.sides) if settings.stops else None,
    )
    net = adapted(task.net, settings, seed=task.seed)
    return Prepared(net=net, work=course, finish=partial(merged, original=task.net))


def _names(net: nn.Module) -> list[str]:
    """Return the names of the linear and convolutional layers, up to the last linear one."""
    base = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    last = [index for index, layer in enumerate(base.values()) if isinstance(layer, nn.Linear)]
    return list(base)[: last[-1] + 1] if last else []


LORA_RESIDUAL = Method(
    name="lora_residual",
    source="Qin et al. 2024, arXiv 2411.08443",
    settings=LoraResidualSettings,
    reads=frozenset({Reads.FORGET, Reads.RETAIN, Reads.FORGET_LABELS, Reads.HELD_OUT}),
    prepare=prepare,
)
