"""Squared gradients of single records, layer by layer: from a layer's inputs and its outputs' gradients.

For a linear layer the gradient of one record is g x^T, so the sum of squares over records is (g^2)^T x^2 and
no record's own gradient is ever held (Goodfellow 2015, arXiv 1510.01799, takes norms the same way). A
convolution is linear in the patches of its inputs (Rochette et al. 2019, arXiv 1912.06015).

Promises: the same numbers as gradients taken one by one, or a plain "no": ``are_layers_enough`` tries a net
before it is trusted, because a weight may be shared, or be used outside its layer's own call.

Shape suffixes: B records, T tokens or places, D inputs of a layer, O outputs, G groups, C channels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Squares = dict[str, Tensor]
Scalar = Callable[[], Tensor]
"""Runs the net forward once and returns one number."""

# Patches or products held at once, in numbers: of 2^16 to 2^21, measured on LeNet-5, the fastest.
MOST_NUMBERS = 1 << 20


@dataclass(frozen=True)
class Call:
    """What a layer was given, and what it answered."""

    inputs: Tensor
    outputs: Tensor


def patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return what each place of a convolution's output is made from: (B, C, H, W) -> (B, G, C/G kH kW, T)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode).contiguous()
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    places = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, layer.stride, strict=True)]
    strides = padded.stride()
    # A view of overlapping windows: one copy of it is faster than F.unfold.
    windows = padded.as_strided(
        (*padded.shape[:2], *layer.kernel_size, *places),
        (
            *strides[:2],
            *(step * d for step, d in zip(strides[2:], layer.dilation, strict=True)),
            *(step * s for step, s in zip(strides[2:], layer.stride, strict=True)),
        ),
    )
    return windows.reshape(len(inputs), layer.groups, -1, places[0] * places[1])


@contextmanager
def recorded(net: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Give the calls of each of these layers in order, filled as the net runs forward."""
    calls: dict[str, list[Call]] = defaultdict(list)
    # A module that works in place would write over the outputs that gradients are asked for.
    is_copied = any(getattr(module, "inplace", False) for module in net.modules())

    def hook_of(name: str) -> Callable[..., Tensor | None]:
        def hook(
            layer: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor], outputs: Tensor
        ) -> Tensor | None:
            inputs = given[0] if given else named["input"]
            calls[name].append(Call(inputs.detach(), outputs))
            return outputs.clone() if is_copied else None

        return hook

    handles = [layer.register_forward_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def layer_squares(net: nn.Module, scalar: Scalar) -> Squares:
    """Return the sum over records of squared gradients, of all weights that layers with a formula own.

    ``scalar`` is the sum of losses of records that are independent of each other.
    """
    layers = {name: layer for name, layer in net.named_modules() if _moves(layer) and type(layer) in FORMULAS}
    with recorded(net, layers) as calls:
        value = scalar()
    # Of a layer that runs twice the squares are not a sum over its runs: the trial says no to it.
    last = {name: own[-1] for name, own in calls.items()}
    outputs = [call.outputs for call in last.values()]
    gradients = torch.autograd.grad(value, outputs, allow_unused=True) if outputs else ()
    found: Squares = {}
    for (name, call), given in zip(last.items(), gradients, strict=True):
        gradient = torch.zeros_like(call.outputs) if given is None else given
        squares = FORMULAS[type(layers[name])](layers[name], call.inputs, gradient)
        own = dict(layers[name].named_parameters(recurse=False))
        found |= {f"{name}.{key}".lstrip("."): value for key, value in squares.items() if key in own}
    return {name: value for name, value in found.items() if net.get_parameter(name).requires_grad}


def are_layers_enough(net: nn.Module, *asked: Tensor) -> bool:
    """Whether the formulas give, for these few records, what gradients taken one by one give.

    ``asked`` is what the net is called with: inputs, and whatever conditions belong to them, records first.
    """
    moving = {name: p for name, p in net.named_parameters() if p.requires_grad}
    probe = _probe(net, *asked)
    found = layer_squares(net, lambda: (net(*asked) * probe).sum())
    if found.keys() != moving.keys():
        return False
    expected = {name: torch.zeros_like(parameter) for name, parameter in moving.items()}
    for *one, aim in zip(*(each.split(1) for each in (*asked, probe)), strict=True):
        own = torch.autograd.grad((net(*one) * aim).sum(), list(moving.values()), allow_unused=True)
        for name, gradient in zip(moving, own, strict=True):
            expected[name] += 0.0 if gradient is None else gradient**2
    largest = max((float(value.max()) for value in expected.values()), default=0.0)
    return all(_is_near(found[name], value, largest=largest) for name, value in expected.items())


def _probe(net: nn.Module, *asked: Tensor) -> Tensor:
    """A direction that is nobody's loss: the gradient of a fitted record would be nearly zero."""
    with torch.no_grad():
        answer: Tensor = net(*asked)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(answer.shape, generator=generator).to(answer)


def _is_near(found: Tensor, expected: Tensor, *, largest: float) -> bool:
    """Against the layer's own size; a weight without influence has rounding of the whole net's for it."""
    eps = torch.finfo(expected.dtype).eps
    tolerance: float = eps**0.5 * float(expected.abs().max()) + eps**1.5 * largest
    return float((found - expected).abs().max()) <= tolerance


def _linear(layer: nn.Module, inputs: Tensor, gradients: Tensor) -> Squares:
    if inputs.dim() == 2:
        squares_BO = gradients**2
        return {"weight": squares_BO.T @ inputs**2, "bias": squares_BO.sum(0)}
    inputs_BTD, gradients_BTO = inputs.flatten(1, -2), gradients.flatten(1, -2)
    return {
        "weight": _products(gradients_BTO.mT, inputs_BTD),
        "bias": (gradients_BTO.sum(1) ** 2).sum(0),
    }


def _convolution(layer: nn.Module, inputs: Tensor, gradients: Tensor) -> Squares:
    assert isinstance(layer, nn.Conv2d)
    gradients_BGOT = gradients.flatten(2).unflatten(1, (layer.groups, -1))
    step = max(1, MOST_NUMBERS // (inputs[0].numel() * layer.kernel_size[0] * layer.kernel_size[1]))
    weight = torch.zeros_like(layer.weight)
    for some, gradients_bGOT in zip(inputs.split(step), gradients_BGOT.split(step), strict=True):
        weight += _products(gradients_bGOT, patches(layer, some).mT).reshape(layer.weight.shape)
    return {"weight": weight, "bias": (gradients.flatten(2).sum(2) ** 2).sum(0)}


def _batch_norm(layer: nn.Module, inputs: Tensor, gradients: Tensor) -> Squares:
    """In eval mode; without running statistics records are not independent, and the trial says no."""
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    return _scaled(F.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps), gradients)


def _group_norm(layer: nn.Module, inputs: Tensor, gradients: Tensor) -> Squares:
    assert isinstance(layer, nn.GroupNorm)
    return _scaled(F.group_norm(inputs, layer.num_groups, eps=layer.eps), gradients)


def _embedding(layer: nn.Module, indices: Tensor, gradients: Tensor) -> Squares:
    """A row's gradient is the sum of those at the places that ask for it, record by record."""
    assert isinstance(layer, nn.Embedding)
    indices_BT, gradients_BTD = (
        indices.reshape(len(indices), -1),
        gradients.reshape(len(indices), -1, layer.embedding_dim),
    )
    found = torch.zeros_like(layer.weight)
    for indices_T, gradients_TD in zip(indices_BT, gradients_BTD, strict=True):
        found += torch.zeros_like(found).index_add_(0, indices_T, gradients_TD).square_()
    if layer.padding_idx is not None:
        found[layer.padding_idx] = 0.0
    return {"weight": found}


FORMULAS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Squares]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Return sum over B of (left @ right)^2, with as many products held at once as fit."""
    step = max(1, MOST_NUMBERS // max(1, left[0, ..., 0].numel() * right.shape[-1]))
    total = left.new_zeros((*left.shape[1:-1], right.shape[-1]))
    for some, others in zip(left.split(step), right.split(step), strict=True):
        total += (some @ others).square_().sum(0)
    return total


def _scaled(normed: Tensor, gradients: Tensor) -> Squares:
    """Of y = weight * normed + bias, by channel."""
    by_weight_BCT, by_bias_BCT = (t.reshape(*t.shape[:2], -1) for t in (normed * gradients, gradients))
    return {"weight": (by_weight_BCT.sum(2) ** 2).sum(0), "bias": (by_bias_BCT.sum(2) ** 2).sum(0)}


def _moves(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
