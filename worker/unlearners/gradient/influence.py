"""Influence of records on weights: gradients of what changes, and the retained records' curvature.

Warnecke et al. 2021, "Machine Unlearning of Features and Labels" (arXiv 2108.11577). Records are erased, or
corrected: with ``corrected`` in their place, their gradients are taken off again. Curvature is never held,
only multiplied with: Hessian-vector products, inverted by conjugate gradients (Hestenes and Stiefel 1952).

Shape suffixes: B records of a chunk, P numbers of all weights that move.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.losses import Loss
from worker.unlearners.gradient.records import Records, chunks
from worker.unlearners.gradient.runner import MethodBrokeDown
from worker.unlearners.gradient.statistics import Weights, mean_gradient

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix (P, P), as what it makes of a vector (P,)."""

CHUNK_RECORDS = 256
MORE_DAMPING = 10.0
MOST_TRIES = 6


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all numbers one after another (P,), whatever the tensors' strides."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


class NotConvex(MethodBrokeDown):
    """Along a direction that conjugate gradients met, the curvature is not above 0."""


def changed_gradient(net: nn.Module, loss: Loss, erased: Records, corrected: Records | None) -> Weights:
    """Return the sum of gradients of the erased records less that of the corrected ones."""
    gone = {name: value * len(erased) for name, value in mean_gradient(net, loss, erased).items()}
    if corrected is None:
        return gone
    come = mean_gradient(net, loss, corrected)
    return {name: value - come[name] * len(corrected) for name, value in gone.items()}


def curvature(net: nn.Module, loss: Loss, records: Records, *, damping: float) -> Product:
    """Return the Hessian of the mean loss over all these records, plus ``damping`` times the identity."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def product(vector_P: Tensor) -> Tensor:
        total_P = torch.zeros_like(vector_P)
        for indices_B in chunks(records, size=CHUNK_RECORDS):
            inputs = records.inputs(indices_B)
            losses_B = loss(net, inputs, loss.aims(records, indices_B, inputs))
            first = torch.autograd.grad(losses_B.sum(), parameters, create_graph=True, materialize_grads=True)
            slope = flat(first) @ vector_P
            total_P += flat(torch.autograd.grad(slope, parameters, materialize_grads=True))
        return total_P / len(records) + damping * vector_P

    return product


def solve(product: Product, aim_P: Tensor, *, tolerance: float, steps: int) -> Tensor:
    """Return x with |product(x) - aim| <= tolerance |aim|, or the best of so many steps.

    Raises:
        NotConvex: the matrix is not positive definite along a direction that was tried.
    """
    x_P, rest_P = torch.zeros_like(aim_P), aim_P.clone()
    along_P, size = rest_P.clone(), float(rest_P @ rest_P)
    for _ in range(steps):
        if size <= tolerance**2 * float(aim_P @ aim_P):
            break
        image_P = product(along_P)
        bend = float(along_P @ image_P)
        if bend <= 0.0:
            raise NotConvex(f"curvature {bend:.1e}")
        x_P += (size / bend) * along_P
        rest_P -= (size / bend) * image_P
        previous, size = size, float(rest_P @ rest_P)
        along_P = rest_P + (size / previous) * along_P
    return x_P


def solve_damped(
    product_at: Callable[[float], Product], aim_P: Tensor, *, damping: float, tolerance: float, steps: int
) -> Tensor:
    """Solve with ten times the damping wherever the curvature was not positive, as of nets it often is not.

    Raises:
        NotConvex: it still is not after the last try.
    """
    for attempt in range(MOST_TRIES):
        try:
            now = damping * MORE_DAMPING**attempt
            return solve(product_at(now), aim_P, tolerance=tolerance, steps=steps)
        except NotConvex:
            continue
    raise NotConvex(f"not even with a damping of {now:g}")
