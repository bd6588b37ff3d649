"""The state of training: weights, buffers, optimizer state and the schedule step. Nothing else is carried.

Promises: what ``pack_state`` gives, ``restore`` takes back bit for bit; digests cover every tensor.
Never: pickle; and no RNG state, because randomness is counter-based.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models_store.manifest import digest_json
from models_store.tensors import check_against, pack, tensor_digest, unpack
from worker.training.factory import build_net
from worker.training.optimizers import build_optimizer
from worker.training.recipe import NetRecipe

NET_PREFIX, _OPTIMIZER = "net.", "optimizer."


@dataclass
class TrainingState:
    """One constituent in training. ``schedule_step`` counts batches, whether or not they had records."""

    net: nn.Module
    optimizer: Optimizer
    schedule_step: int = 0


def initial_state(recipe: NetRecipe, *, shard: int, device: torch.device) -> TrainingState:
    """Return the state before the first block."""
    net = build_net(recipe, shard=shard, device=device)
    return TrainingState(net=net, optimizer=build_optimizer(recipe.optimizer, net.parameters()))


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Return weights and persistent buffers by name: what exactness compares and what is served."""
    return {name: tensor.detach() for name, tensor in net.state_dict().items()}


def weights_digest(constituents: Sequence[Mapping[str, Tensor]]) -> str:
    """Return the digest of the weights of all constituents in shard order."""
    return digest_json([tensor_digest(part) for part in constituents])


def state_digest(state: TrainingState) -> str:
    """Return the digest of weights, buffers, optimizer state and schedule step."""
    return digest_json({"tensors": tensor_digest(_tensors(state)), "schedule_step": state.schedule_step})


def pack_state(state: TrainingState) -> bytes:
    """Return the state as safetensors bytes; equal states give equal bytes."""
    return pack(_tensors(state), note={"schedule_step": state.schedule_step})


def restore(data: bytes, recipe: NetRecipe, *, shard: int, device: torch.device) -> TrainingState:
    """Return the state that ``pack_state`` wrote, on ``device``.

    Raises:
        TensorFileRefused: the tensors do not fit the recipe's net.
    """
    tensors, note = unpack(data)
    state = initial_state(recipe, shard=shard, device=device)
    net = {name.removeprefix(NET_PREFIX): t for name, t in tensors.items() if name.startswith(NET_PREFIX)}
    check_against(net, expected=state.net.state_dict())
    state.net.load_state_dict(net)
    entries = state.optimizer.state_dict()
    entries["state"] = _optimizer_entries(tensors)
    state.optimizer.load_state_dict(entries)
    step = note["schedule_step"]
    assert isinstance(step, int)
    state.schedule_step = step
    return state


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    tensors = {NET_PREFIX + name: tensor for name, tensor in weights(state.net).items()}
    for index, entry in state.optimizer.state_dict()["state"].items():
        # Plain SGD keeps a None where momentum would be; there is nothing to carry in it.
        tensors |= {f"{_OPTIMIZER}{index}.{k}": v for k, v in entry.items() if isinstance(v, Tensor)}
    return tensors


def _optimizer_entries(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split(".", 1)
            entries.setdefault(int(index), {})[key] = tensor
    return entries
