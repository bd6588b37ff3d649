"""Factories that do to their process what a job must survive, and a net whose blocks take their time."""

import os
import signal
import time

import torch
from torch import Tensor, nn

from worker.training.recipe import Recipe

MEMORY_BYTES = 1 << 30


def dying(fault: str) -> nn.Module:
    """Make no net at all."""
    if fault == "abort":
        os.abort()
    if fault == "exit":
        os._exit(7)
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    kept = torch.ones(MEMORY_BYTES, dtype=torch.uint8) if fault == "memory" else None
    while True:
        time.sleep(60)
        assert kept is None or kept.numel()


class Complaint(Exception):
    """An error that does not survive the way to another process."""

    def __init__(self, what: str, whom: str) -> None:
        super().__init__(f"{what} to {whom}")


class Complaining(nn.Module):
    """A net that fails with an error of its own."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Never return."""
        raise Complaint("no", "everybody")


class Slow(nn.Module):
    """A linear net that waits before every batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seconds = seconds

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K)."""
        time.sleep(self.seconds)
        logits: Tensor = self.linear(inputs.flatten(1))
        return logits


def with_factory(recipe: Recipe, factory: str, **arguments: object) -> Recipe:
    """Return the recipe with another factory, under a name of its own."""
    model = {"factory": f"tests.support.bad_nets:{factory}", "arguments": arguments}
    return Recipe.model_validate({**recipe.to_json(), "name": factory.lower(), "model": model})
