"""The training loop. Training, replay, witness and oracle all run this one and no other.

loss = sum over the records present / batch_size (not their mean), so that no count enters a step. With fewer
than ``min_present`` records there is no forward and no step; the schedule moves on, the optimizer does not.

Shape suffixes: B records of a batch, K classes, * the shape of one input.
"""

from collections.abc import Callable, Iterable

import torch
from torch.nn import functional as F

from worker.data.loader import Block, Loader
from worker.determinism import seed_generators
from worker.training.optimizers import learning_rate
from worker.training.plan import Visit, batch_seed, batches_of, schedule_step
from worker.training.precision import computing_in
from worker.training.recipe import Recipe
from worker.training.state import TrainingState

AfterBlock = Callable[[int, TrainingState], None]
"""Called with the position just finished and the state after it."""


def run_positions(
    state: TrainingState,
    positions: Iterable[int],
    *,
    recipe: Recipe,
    loader: Loader,
    shard: int,
    device: torch.device,
    after_block: AfterBlock | None = None,
) -> TrainingState:
    """Train ``state`` in place through these consecutive positions of one shard and return it."""
    for position in positions:
        block = loader.block(shard, position % recipe.plan.blocks)
        run_block(state, block, recipe=recipe, shard=shard, position=position, device=device)
        if after_block is not None:
            after_block(position, state)
    return state


def run_block(
    state: TrainingState, block: Block, *, recipe: Recipe, shard: int, position: int, device: torch.device
) -> None:
    """Train on one block for all its epochs."""
    plan = recipe.plan
    pass_index, index = divmod(position, plan.blocks)
    for epoch in range(plan.epochs):
        visit = Visit(shard=shard, pass_index=pass_index, block=index, epoch=epoch)
        for batch, chosen_B in enumerate(batches_of(plan, block.token_N2, visit)):
            step = schedule_step(plan, position=position, epoch=epoch, batch=batch)
            state.schedule_step = step + 1
            if len(chosen_B) < plan.min_present:
                continue
            seed_generators(batch_seed(plan, visit, batch=batch), device)
            _set_learning_rate(state, recipe, step=step)
            inputs, labels_B = block.batch(chosen_B)
            with computing_in(recipe.execution, device):
                logits_BK = state.net(inputs)
            loss = F.cross_entropy(logits_BK.float(), labels_B, reduction="sum") / plan.batch_size
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            state.optimizer.step()


def _set_learning_rate(state: TrainingState, recipe: Recipe, *, step: int) -> None:
    rate = learning_rate(recipe.optimizer, recipe.schedule, step=step, num_steps=recipe.plan.num_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
