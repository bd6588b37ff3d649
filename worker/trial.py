"""What ``check`` tries out in fresh processes: the net on the shape of the data, two blocks of training."""

import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models_store.tensors import tensor_digest, unpack
from worker.data.data_files import DataFile, Layout, open_data_file, read_rows
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.determinism import choose_device, fix_kernels
from worker.proof import Measured, ProofRun
from worker.training.factory import build_net
from worker.training.inputs import transform_of
from worker.training.loop import run_positions
from worker.training.precision import computing_in
from worker.training.recipe import NetRecipe, Recipe, RecipeRefused
from worker.training.state import initial_state, pack_state, restore


def require_fitting_net(recipe: NetRecipe, layout: Layout) -> None:
    """Refuse a net that does not take the inputs or has no output for some label, by one trial forward.

    Raises:
        RecipeRefused: the net fails, its output does not fit, or BatchNorm could meet a single record.
    """
    net = _net(recipe)
    inputs = torch.zeros(2, *(recipe.data.shape or layout.shape))
    try:
        with torch.no_grad(), computing_in(recipe.execution, inputs.device):
            logits = net(inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
        shape = list(inputs.shape)
        raise RecipeRefused(f"model.factory: it does not take inputs {shape}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or logits.shape[1] < layout.num_classes:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        wanted = [len(inputs), layout.num_classes]
        raise RecipeRefused(f"model.factory: its output is {found}, and the labels need {wanted}")
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in net.modules())
    if has_batch_norm and isinstance(recipe, Recipe) and recipe.plan.min_present < 2:
        raise RecipeRefused("plan.min_present: must be 2 with BatchNorm, which cannot normalise one record")


def execute(run: ProofRun) -> bytes:
    """Run the positions and return the packed state."""
    fix_kernels(run.recipe.execution.threads)
    device = choose_device()
    file, table = _opened(run)
    loader = Loader(
        file,
        table,
        transform=transform_of(run.recipe, shape=run.layout.shape),
        device=device,
        resident_bytes=file.layout.row_dtype.itemsize * (len(table) + 1),
        poisoned=run.poisoned,
    )
    if run.builds_all:
        for shard in range(1, run.recipe.plan.shards):
            initial_state(run.recipe, shard=shard, device=device)
    if run.state is None:
        state = initial_state(run.recipe, shard=0, device=device)
    else:
        state = restore(run.state, run.recipe, shard=0, device=device)
    run_positions(state, run.positions, recipe=run.recipe, loader=loader, shard=0, device=device)
    return pack_state(state)


def tensor_digests(run: ProofRun) -> dict[str, str]:
    """Run the positions and return the digest of every tensor of the state, by name."""
    return {name: tensor_digest({name: tensor}) for name, tensor in unpack(execute(run))[0].items()}


def measure(run: ProofRun, num_records: int) -> Measured:
    """Return what a state takes, and from both blocks what a training on so many records would.

    They are timed once more in this process, after a first run that warms everything up.
    """
    packed = execute(run)
    started = time.perf_counter()
    execute(run)
    seconds = time.perf_counter() - started
    return Measured(
        state_bytes=len(packed),
        parameter_bytes=sum(parameter.nbytes for parameter in _net(run.recipe).parameters()),
        training_seconds=seconds * num_records / max(1, len(run.table)) * run.recipe.plan.passes,
    )


def _opened(run: ProofRun) -> tuple[DataFile, RecordTable]:
    file = open_data_file(run.data_folder, run.dataset_id, layout=run.layout)
    if not run.is_copied:
        return file, run.table
    rows = read_rows(file, run.table.row_N, digests=run.table.content_digests)
    return DataFile(layout=run.layout, rows=rows), replace(run.table, row_N=np.arange(len(rows)))


def _net(recipe: NetRecipe) -> nn.Module:
    return build_net(recipe, shard=0, device=torch.device("cpu"))
