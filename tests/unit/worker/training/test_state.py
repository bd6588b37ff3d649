"""A state survives being packed, bit for bit; its digest covers all of it."""

import pytest
import torch

from models_store.errors import TensorFileRefused
from models_store.tensors import unpack
from tests.unit.worker.training.conftest import CPU, MakeRecipe, noise
from worker.training.loop import run_block
from worker.training.recipe import Recipe
from worker.training.state import (
    TrainingState,
    initial_state,
    pack_state,
    restore,
    state_digest,
    weights,
    weights_digest,
)

OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 0.1},
    "momentum": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    "nesterov": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    "adamw": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
}


def trained(recipe: Recipe, *, num_blocks: int) -> TrainingState:
    state = initial_state(recipe, shard=0, device=CPU)
    run(state, recipe, range(num_blocks))
    return state


def run(state: TrainingState, recipe: Recipe, positions: range) -> None:
    for position in positions:
        block = noise(12, seed=position)
        run_block(state, block, recipe=recipe, shard=0, position=position, device=CPU)


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_packing_and_restoring_is_the_identity_and_the_next_steps_are_too(
    make_recipe: MakeRecipe, optimizer: str, num_blocks: int
) -> None:
    schedule = {"name": "cosine", "final_share": 0.1}
    recipe = make_recipe(optimizer=OPTIMIZERS[optimizer], schedule=schedule)
    state = trained(recipe, num_blocks=num_blocks)
    again = restore(pack_state(state), recipe, shard=0, device=CPU)
    assert state_digest(again) == state_digest(state)
    assert pack_state(again) == pack_state(state)
    run(state, recipe, range(num_blocks, 4))
    run(again, recipe, range(num_blocks, 4))
    assert pack_state(again) == pack_state(state)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adamw"])
def test_a_lost_optimizer_state_changes_the_digest_and_the_next_step(
    make_recipe: MakeRecipe, optimizer: str
) -> None:
    recipe = make_recipe(optimizer=OPTIMIZERS[optimizer])
    state = trained(recipe, num_blocks=2)
    poor = restore(pack_state(state), recipe, shard=0, device=CPU)
    poor.optimizer.state.clear()
    assert state_digest(poor) != state_digest(state)
    assert weights_digest([weights(poor.net)]) == weights_digest([weights(state.net)])
    run(state, recipe, range(2, 3))
    run(poor, recipe, range(2, 3))
    assert weights_digest([weights(poor.net)]) != weights_digest([weights(state.net)])


def test_every_tensor_and_the_step_are_in_the_digest(make_recipe: MakeRecipe) -> None:
    arguments = {"in_features": 4, "num_classes": 3, "hidden": [5], "batch_norm": True}
    model = {"factory": "worker.training.nets:mlp", "arguments": arguments}
    recipe = make_recipe(model=model, optimizer=OPTIMIZERS["adamw"])
    state = trained(recipe, num_blocks=1)
    original, packed = state_digest(state), pack_state(state)
    names = sorted(unpack(packed)[0])
    # 6 parameters and 3 buffers; of each parameter two moments and a step.
    assert len(names) == 6 + 3 + 3 * 6
    for index in range(len(names)):
        changed = restore(packed, recipe, shard=0, device=CPU)
        flip(tensors_of(changed)[index])
        assert state_digest(changed) != original


def tensors_of(state: TrainingState) -> list[torch.Tensor]:
    moments = [value for entry in state.optimizer.state.values() for value in entry.values()]
    return [*state.net.state_dict().values(), *moments]


def flip(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1).view(torch.uint8)[0] ^= 1


def test_the_schedule_step_is_in_the_digest(make_recipe: MakeRecipe) -> None:
    state = trained(make_recipe(), num_blocks=1)
    before = state_digest(state)
    state.schedule_step += 1
    assert state_digest(state) != before


def test_the_weights_digest_tells_constituents_and_their_order(make_recipe: MakeRecipe) -> None:
    nets = [weights(initial_state(make_recipe(), shard=shard, device=CPU).net) for shard in (0, 1)]
    digests = {weights_digest(nets), weights_digest(nets[::-1]), weights_digest(nets[:1])}
    assert len(digests) == 3


def test_the_initial_weights_depend_on_seed_and_shard_alone(make_recipe: MakeRecipe) -> None:
    def digest(seed: int, shard: int) -> str:
        torch.manual_seed(seed + 17 * shard)  # what happened before must not matter
        recipe = make_recipe(plan={"blocks": 4, "batch_size": 8, "seed": seed})
        return state_digest(initial_state(recipe, shard=shard, device=CPU))

    assert digest(1, 0) == digest(1, 0)
    assert len({digest(1, 0), digest(2, 0), digest(1, 1)}) == 3


def test_a_state_of_another_net_is_refused(make_recipe: MakeRecipe) -> None:
    packed = pack_state(initial_state(make_recipe(), shard=0, device=CPU))
    arguments = {"in_features": 4, "num_classes": 3, "hidden": [6]}
    other = make_recipe(model={"factory": "worker.training.nets:mlp", "arguments": arguments})
    with pytest.raises(TensorFileRefused, match="shape"):
        restore(packed, other, shard=0, device=CPU)
