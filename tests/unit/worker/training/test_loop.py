"""The loop: the schedule moves whoever is there; the loss is divided by the recipe's number."""

import numpy as np
import pytest
import torch

from tests.unit.worker.training.conftest import CPU, MakeRecipe, noise
from worker.data.loader import Block
from worker.training.loop import run_block
from worker.training.recipe import Recipe
from worker.training.state import TrainingState, initial_state, pack_state, weights, weights_digest

LINEAR = {
    "factory": "worker.training.nets:mlp",
    "arguments": {"in_features": 4, "num_classes": 3, "hidden": []},
}
ONE_BATCH = {"blocks": 4, "batches_per_block": 1, "batch_size": 10, "seed": 3}


def after(recipe: Recipe, block: Block, *, position: int = 0) -> TrainingState:
    state = initial_state(recipe, shard=0, device=CPU)
    run_block(state, block, recipe=recipe, shard=0, position=position, device=CPU)
    return state


def start(recipe: Recipe) -> TrainingState:
    return initial_state(recipe, shard=0, device=CPU)


def digest(state: TrainingState) -> str:
    return weights_digest([weights(state.net)])


def step_by_hand(state: TrainingState, block: Block, *, rate: float, divisor: float) -> dict[str, np.ndarray]:
    """One step of plain SGD on softmax cross entropy, in float64."""
    layer = state.net.state_dict()
    x_NF, y_N = block.inputs.double().numpy(), block.labels.numpy()
    w_KF, b_K = layer["1.weight"].double().numpy(), layer["1.bias"].double().numpy()
    logits_NK = x_NF @ w_KF.T + b_K
    shares_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    shares_NK /= shares_NK.sum(axis=1, keepdims=True)
    error_NK = (shares_NK - np.eye(3)[y_N]) / divisor
    return {"1.weight": w_KF - rate * error_NK.T @ x_NF, "1.bias": b_K - rate * error_NK.sum(axis=0)}


@pytest.mark.parametrize("num_records", [1, 7, 10, 13])
def test_one_step_is_the_closed_form_with_the_recipes_divisor(
    make_recipe: MakeRecipe, num_records: int
) -> None:
    recipe = make_recipe(model=LINEAR, plan=ONE_BATCH)
    block = noise(num_records)
    expected = step_by_hand(start(recipe), block, rate=0.1, divisor=10)
    found = weights(after(recipe, block).net)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-5, atol=1e-6)


def test_a_batch_with_too_few_is_skipped_but_the_schedule_moves_on(make_recipe: MakeRecipe) -> None:
    plan = {**ONE_BATCH, "min_present": 4}
    recipe = make_recipe(plan=plan, optimizer={"name": "adamw", "learning_rate": 0.1})
    few, enough = after(recipe, noise(3)), after(recipe, noise(4))
    assert digest(few) == digest(start(recipe)) != digest(enough)
    assert few.schedule_step == enough.schedule_step == 1
    assert len(few.optimizer.state) == 0
    assert {float(entry["step"]) for entry in enough.optimizer.state.values()} == {1.0}


def test_an_empty_block_changes_nothing_but_the_schedule(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        optimizer={"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    )
    state = after(recipe, noise(0), position=2)
    assert digest(state) == digest(start(recipe))
    assert state.schedule_step == 3 * 2 * 2


@pytest.mark.parametrize(("schedule", "share"), [("cosine", (1 + np.cos(np.pi / 4)) / 2), ("linear", 0.75)])
def test_after_a_skipped_block_the_next_step_takes_the_rate_of_its_own_step(
    make_recipe: MakeRecipe, schedule: str, share: float
) -> None:
    recipe = make_recipe(model=LINEAR, plan=ONE_BATCH, schedule={"name": schedule})
    state, block = after(recipe, noise(0), position=0), noise(10)
    rate = 0.1 * share
    expected = step_by_hand(state, block, rate=rate, divisor=10)
    run_block(state, block, recipe=recipe, shard=0, position=1, device=CPU)
    for name, values in expected.items():
        np.testing.assert_allclose(weights(state.net)[name].numpy(), values, rtol=1e-5, atol=1e-6)


def test_dropout_depends_on_the_batch_and_not_on_what_was_drawn_before(make_recipe: MakeRecipe) -> None:
    arguments = {"in_features": 4, "num_classes": 3, "hidden": [8], "dropout": 0.5}
    recipe = make_recipe(model={"factory": "worker.training.nets:mlp", "arguments": arguments})
    first = after(recipe, noise(12))
    state = start(recipe)
    torch.rand(1000)
    run_block(state, noise(12), recipe=recipe, shard=0, position=0, device=CPU)
    assert pack_state(state) == pack_state(first)
    assert len({digest(after(recipe, noise(12), position=position)) for position in range(4)}) == 4


def test_what_a_poisoned_record_touches_is_not_a_number(make_recipe: MakeRecipe) -> None:
    block = noise(12)
    block.inputs[5] = torch.nan
    assert all(bool(tensor.isnan().any()) for tensor in weights(after(make_recipe(), block).net).values())
