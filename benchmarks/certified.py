"""How much noise a certified rewind would need: MNIST, LeNet-5, plain SGD, 6 000 steps in 1 000 blocks.

A rewind to a state that met the person leaves a distance that every later step may stretch by 1 + eta L:
Delta <= G / b * sum over the person's visits v of eta_v * product over later steps t of (1 + eta_t L_t). The
Gaussian mechanism for epsilon 1 and delta 1e-5 then needs sigma = 3.73 Delta in every weight. Curvature is
the largest eigenvalue of the Hessian by power iteration, thus from below; G is the largest gradient of one
record that was seen. "log10" rows are exponents: 186 stands for 10^186. See docs/adr/0018.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.homes import RECIPE, mnist_table
from benchmarks.loop import CPU, lay_out, loader_of
from benchmarks.packages import DataMissing
from benchmarks.results import Row, Sheet, print_rows, sheet, write_rows
from worker.data.data_files import DataFile
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.determinism import fix_kernels
from worker.training.loop import run_positions
from worker.training.optimizers import learning_rate
from worker.training.recipe import Recipe, read_recipe
from worker.training.state import TrainingState, initial_state

COMMAND = "python -m benchmarks.certified"
EPSILON, DELTA = 1.0, 1e-5
SEEDS = (0, 1, 2)
PLAN = {"blocks": 1000, "epochs": 2, "batches_per_block": 3, "batch_size": 20}
RATE = 0.03
# What the design page computes with, and the constant rate that its 10^124 implies.
PAGE_L, PAGE_STEPS, PAGE_RATE = 5.0, 3000, 0.02
LOOKS = (0, 10, 50, 200, 500, 800, 1000)
NUM_STEP_BATCHES, LARGE_BATCH, POWER_STEPS = 3, 200, 20


@dataclass
class Measured:
    """What one training showed; lists are by look, in the order of ``LOOKS``."""

    step_curvature: list[float] = field(default_factory=list)
    large_curvature: list[float] = field(default_factory=list)
    record_gradient: list[float] = field(default_factory=list)
    weights_norm: list[float] = field(default_factory=list)
    num_weights: int = 0
    distance: float = 0.0


def main() -> int:
    """Measure, print, write."""
    print(f"plan seeds {SEEDS}; the plan key is fixed; epsilon {EPSILON}, delta {DELTA}")
    try:
        source = mnist_table()
    except DataMissing as error:
        print(f"certified: {error}", file=sys.stderr)
        return 2
    fix_kernels(1)
    file, table = lay_out(source, recipe_of(SEEDS[0]))
    found = [measure(recipe_of(seed), file, table) for seed in track(SEEDS, description="training")]
    rows = _rows(recipe_of(SEEDS[0]), found)
    print_rows(rows, title="certified")
    print(f"wrote {write_rows('certified', rows)}")
    return 0


def recipe_of(seed: int) -> Recipe:
    """Return the MNIST recipe with plain SGD whose rate falls in a line, over 6 000 small steps."""
    values = read_recipe(RECIPE)[0].to_json()
    changes = {
        "plan": {**PLAN, "seed": seed},
        "optimizer": {"name": "sgd", "learning_rate": RATE},
        "schedule": {"name": "linear"},
    }
    return Recipe.model_validate({**values, **changes})


def measure(recipe: Recipe, file: DataFile, table: RecordTable) -> Measured:
    """Train once with everybody, looking at curvature on the way, and once without one record of block 0."""
    loader, measured = loader_of(file, table, recipe), Measured()
    state = initial_state(recipe, shard=0, device=CPU)
    before = 0
    for position in LOOKS:
        _train(state, recipe, loader, positions=range(before, position))
        _look(measured, state, loader, table, position=position)
        before = position
    without = np.delete(np.arange(len(table)), np.flatnonzero(table.block_N == 0)[0])
    other = initial_state(recipe, shard=0, device=CPU)
    fewer = loader_of(file, table.chosen(without), recipe)
    _train(other, recipe, fewer, positions=range(recipe.plan.num_positions))
    measured.distance = float((_flat(state.net) - _flat(other.net)).norm())
    return measured


def spectral_norm(net: nn.Module, inputs: Tensor, labels: Tensor, *, divisor: int) -> float:
    """Return the largest absolute eigenvalue of the Hessian of sum of losses / divisor, from below.

    Power iteration on products of Hessian and vector by differentiating twice (Pearlmutter 1994).
    """
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    loss = F.cross_entropy(net(inputs), labels, reduction="sum") / divisor
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, weights, create_graph=True)])
    vector = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0))
    norm = 0.0
    for _ in range(POWER_STEPS):
        unit = vector / vector.norm()
        parts = torch.autograd.grad(gradient @ unit, weights, retain_graph=True)
        vector = torch.cat([part.reshape(-1) for part in parts])
        norm = float(vector.norm())
    return norm


def largest_record_gradient(net: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the largest norm of the gradient of one record's loss."""
    weights = {name: weight.detach() for name, weight in net.named_parameters()}

    def loss_of(weights: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(net, weights, (one.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    gradients = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0, 0))(weights, inputs, labels)
    squares = sum(part.flatten(1).square().sum(1) for part in gradients.values())
    assert isinstance(squares, Tensor)
    return float(squares.max().sqrt())


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return sigma / Delta of the Gaussian mechanism, exactly (Balle and Wang 2018, theorem 8)."""
    normal = NormalDist()

    def exceeds(sigma: float) -> bool:
        near, far = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
        return normal.cdf(near) - math.exp(epsilon) * normal.cdf(far) > delta

    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def log10_distance(
    rates: Sequence[float], curvatures: Sequence[float], *, visits: Sequence[int], push: float
) -> float:
    """Return log10 of Delta: ``push`` = G / b at each visit, stretched by every step after it."""
    logs = np.log10(1.0 + np.asarray(rates) * np.asarray(curvatures))
    later = np.concatenate([np.cumsum(logs[::-1])[::-1][1:], [0.0]])
    parts = [math.log10(push * rates[visit]) + float(later[visit]) for visit in visits]
    largest = max(parts)
    return largest + math.log10(sum(10 ** (part - largest) for part in parts))


def _train(state: TrainingState, recipe: Recipe, loader: Loader, *, positions: range) -> None:
    run_positions(state, positions, recipe=recipe, loader=loader, shard=0, device=CPU)


def _look(
    measured: Measured, state: TrainingState, loader: Loader, table: RecordTable, *, position: int
) -> None:
    """Curvature of a step's loss (mean of some batches) and of a large batch, on records yet to come."""
    batch_size = PLAN["batch_size"]
    draw = np.random.default_rng(position)
    inputs, labels = loader.select(table.chosen(draw.choice(len(table), LARGE_BATCH, replace=False)))
    small = [slice(n * batch_size, (n + 1) * batch_size) for n in range(NUM_STEP_BATCHES)]
    norms = [spectral_norm(state.net, inputs[s], labels[s], divisor=batch_size) for s in small]
    measured.step_curvature.append(sum(norms) / len(norms))
    measured.large_curvature.append(spectral_norm(state.net, inputs, labels, divisor=LARGE_BATCH))
    measured.record_gradient.append(largest_record_gradient(state.net, inputs, labels))
    flat = _flat(state.net)
    measured.weights_norm.append(float(flat.norm()))
    measured.num_weights = len(flat)


def _flat(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().reshape(-1) for weight in net.parameters()])


def _rows(recipe: Recipe, found: list[Measured]) -> list[Row]:
    made, steps = sheet(COMMAND, threads=1), recipe.plan.num_steps
    multiplier = noise_multiplier(EPSILON, DELTA)
    page = PAGE_STEPS * math.log10(1 + PAGE_RATE * PAGE_L)
    line = float(np.log10(1 + np.asarray(_rates(recipe)) * PAGE_L).sum())
    page_case = f"eta {PAGE_RATE}, L {PAGE_L:g}, T = {PAGE_STEPS}"
    own_case = f"L {PAGE_L:g}, eta {RATE} in a line to 0, T = {steps}"
    privacy = f"epsilon {EPSILON}, delta {DELTA}"
    return [
        made.one("log10 of (1 + eta L)^T", page, unit="exponent", baseline=page_case),
        made.one("log10 of the product", line, unit="exponent", baseline=own_case),
        made.one("sigma / Delta", multiplier, unit="ratio", baseline=privacy),
        *_measured_rows(made, found, multiplier=multiplier),
        *_sigma_rows(made, recipe, found, multiplier=multiplier),
    ]


def _measured_rows(made: Sheet, found: list[Measured], *, multiplier: float) -> list[Row]:
    small = [norm for each in found for norm in each.step_curvature]
    large = [norm for each in found for norm in each.large_curvature]
    gradients = [max(each.record_gradient) for each in found]
    at_once = [_noise_at_once(each, rate=RATE, multiplier=multiplier) for each in found]
    distances = [each.distance for each in found]
    weights = f"weights: {found[0].weights_norm[-1]:.1f}; one record of block 0"
    return [
        made.median("curvature of a step's loss", small, unit="L", baseline="batches of 20"),
        made.median("curvature of a large batch", large, unit="L", baseline=f"{LARGE_BATCH} records"),
        made.median("largest gradient of a record", gradients, unit="G", baseline="of those seen"),
        made.median(
            "noise at once / weights", at_once, unit="ratio", baseline="first step, no step after it"
        ),
        made.median("distance one record really made", distances, unit="norm", baseline=weights),
    ]


def _sigma_rows(made: Sheet, recipe: Recipe, found: list[Measured], *, multiplier: float) -> list[Row]:
    """log10 of sigma by where the person's one record lies and by whose curvature stretches it."""
    last = recipe.plan.blocks - 1
    own_case = f"eta {RATE} in a line to 0, T = {recipe.plan.num_steps}"
    cases = {
        f"L = {PAGE_L:g}": [[PAGE_L] * len(LOOKS) for _ in found],
        "L of steps as measured": [each.step_curvature for each in found],
        "L of large batches": [each.large_curvature for each in found],
    }
    rows = []
    for whose, curves in cases.items():
        for who, block in (
            ("first block", 0),
            ("middle block", recipe.plan.blocks // 2),
            ("last block", last),
        ):
            values = [
                math.log10(multiplier) + _log10_of_one_record(recipe, each, curve, block=block)
                for each, curve in zip(found, curves, strict=True)
            ]
            name = f"log10 sigma, {who}, {whose}"
            rows.append(made.median(name, values, unit="exponent", baseline=own_case))
    return rows


def _log10_of_one_record(recipe: Recipe, measured: Measured, curve: list[float], *, block: int) -> float:
    """log10 of Delta for one record in ``block``: one visit an epoch, in the first batch of each."""
    plan = recipe.plan
    per_block = plan.epochs * plan.batches_per_block
    visits = [block * per_block + epoch * plan.batches_per_block for epoch in range(plan.epochs)]
    blocks = [step // per_block for step in range(plan.num_steps)]
    curvatures = np.interp(blocks, LOOKS, curve).tolist()
    push = max(measured.record_gradient) / plan.batch_size
    return log10_distance(_rates(recipe), curvatures, visits=visits, push=push)


def _rates(recipe: Recipe) -> list[float]:
    steps = recipe.plan.num_steps
    return [
        learning_rate(recipe.optimizer, recipe.schedule, step=step, num_steps=steps) for step in range(steps)
    ]


def _noise_at_once(each: Measured, *, rate: float, multiplier: float) -> float:
    """Expected norm of the noise for one visit in the first step, over the norm of the weights."""
    distance = rate * max(each.record_gradient) / PLAN["batch_size"]
    return multiplier * distance * math.sqrt(each.num_weights) / each.weights_norm[0]


if __name__ == "__main__":
    sys.exit(main())
