"""What a method costs, by the forward passes of its net and of every copy of it, whatever they are for.

``both`` are records gone forward where a gradient could follow: steps, saliency, importances. ``forward`` are
those gone forward alone: the looks of a stop rule, and teachers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Passes:
    """Records met so far."""

    both: int = 0
    forward: int = 0


@contextmanager
def metered(net: nn.Module) -> Iterator[Passes]:
    """Count the records that a net meets; copies that are made of it meanwhile count along."""
    passes = Passes()

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            passes.both += len(given[0])
        else:
            passes.forward += len(given[0])

    handle = net.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()
