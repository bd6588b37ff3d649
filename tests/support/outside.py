"""A small net that was trained with plain torch, by nothing of ours, and the recipe it is registered with."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.policy import Policy, WhenGateFails
from worker.data.sources import SourceTable
from worker.training.nets import mlp
from worker.training.registered import RegisteredRecipe

ARGUMENTS: dict[str, Any] = {"in_features": 64, "num_classes": 10, "hidden": [16]}
# Mild, so that no class is lost on so few records: the gates would refuse that.
QUICK: dict[str, Any] = {"cycles": 6, "batch_size": 16, "clip": 0.5, "lift": 0.1, "stops": False}
QUICK_POLICY = Policy(
    final_method="sfron",
    accept_empirical=True,
    when_gate_fails=WhenGateFails.FAIL,
    methods={"sfron": QUICK},
    max_drop=1.0,
)
SCALE = 1 / 16
BATCH_SIZE = 32


def outside_recipe(**tables: Any) -> RegisteredRecipe:
    """Return the recipe of ``train_outside``; keywords replace whole tables."""
    values: dict[str, Any] = {
        "name": "outside",
        "batch_size": BATCH_SIZE,
        "model": {"factory": "worker.training.nets:mlp", "arguments": ARGUMENTS},
        "data": {"dataset": "digits", "scale": SCALE},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    }
    return RegisteredRecipe.model_validate({**values, **tables})


def train_outside(source: SourceTable, *, num_epochs: int) -> dict[str, Tensor]:
    """Return the weights of a small net after so many shuffled epochs over all records of a source."""
    torch.manual_seed(0)
    net: nn.Module = mlp(**ARGUMENTS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.from_numpy(source.features).to(torch.float32) * SCALE
    labels = torch.from_numpy(source.labels)
    for _ in range(num_epochs):
        for chosen in torch.randperm(len(labels)).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
    return dict(net.state_dict())


def save_outside(weights: dict[str, Tensor], path: Path) -> Path:
    """Write weights as people who know nothing of us do, and return where."""
    save_file(weights, path, metadata={"format": "pt"})
    return path
