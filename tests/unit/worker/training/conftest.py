"""A small recipe and blocks of noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from worker.data.loader import Block
from worker.determinism import fix_kernels
from worker.training.plan import tokens_from_bytes
from worker.training.recipe import Recipe

CPU = torch.device("cpu")
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_kernels(1)


@pytest.fixture
def make_recipe() -> MakeRecipe:
    """Makes recipes of an MLP over four numbers; keywords replace whole tables."""

    def make(**tables: Any) -> Recipe:
        arguments = {"in_features": 4, "num_classes": 3, "hidden": [5]}
        values: dict[str, Any] = {
            "name": "small",
            "model": {"factory": "worker.training.nets:mlp", "arguments": arguments},
            "data": {"dataset": "noise"},
            "plan": {"blocks": 4, "epochs": 2, "batches_per_block": 2, "batch_size": 8, "seed": 3},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
        }
        return Recipe.model_validate({**values, **tables})

    return make


def noise(num_records: int, *, seed: int = 0, width: int = 4) -> Block:
    """Return a block of noise with three labels."""
    draw = np.random.default_rng(seed)
    return Block(
        token_N2=tokens_from_bytes(draw.bytes(16 * num_records)),
        inputs=torch.from_numpy(draw.normal(size=(num_records, width)).astype(np.float32)),
        labels=torch.from_numpy(draw.integers(0, 3, size=num_records)),
    )
