"""In which number format a net computes. Training, replay, witness, oracle and proof all take it from here.

Promises: weights, buffers, gradients and optimizer state are float32 in either format, and so is the loss,
which is taken outside. Never a scaler: bfloat16 has the exponents of float32, so gradients do not vanish.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import assert_never

import torch

from worker.training.recipe import ExecutionPart


def computing_in(execution: ExecutionPart, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a net's forward pass computes as the recipe says."""
    match execution.dtype:
        case "float32":
            return nullcontext()
        case "bfloat16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        case _:
            assert_never(execution.dtype)
