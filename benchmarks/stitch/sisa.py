"""SISA (Bourtoule et al. 2019) beside it: what shards save in records, and what they cost.

All settings train as many records and steps in all; a prediction asks every constituent.

Shape suffixes: S shards, B blocks.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.results import Row, Sheet
from benchmarks.stitch.images import Images
from benchmarks.stitch.training import Training, seeded
from models_store.ensemble import Ensemble
from worker.training.inputs import transform_of
from worker.training.recipe import Recipe

SHARDS = (1, 5, 20)
NUM_REPEATS = 7


@dataclass(frozen=True)
class Sharded:
    """One training: accuracy in percent, seconds to predict the test images once, records by block."""

    num_shards: int
    seed: int
    accuracy: float
    predict_seconds: float
    sizes_SB: np.ndarray

    @property
    def from_scratch(self) -> float:
        """All records / those that a deletion should train on again, its shard from initialisation (mean)."""
        size_S = self.sizes_SB.sum(axis=1)
        return float(size_S.sum() / ((size_S * size_S).sum() / size_S.sum()))

    @property
    def from_checkpoint(self) -> float:
        """The same with a full checkpoint before every block."""
        again_SB = np.flip(np.cumsum(np.flip(self.sizes_SB, axis=1), axis=1), axis=1)
        return float(self.sizes_SB.sum() / ((self.sizes_SB * again_SB).sum() / self.sizes_SB.sum()))


def one_sisa(recipe: Recipe, images: Images, num_shards: int, seed: int) -> Sharded:
    """Train every constituent and predict with all of them."""
    recipe = seeded(with_shards(recipe, num_shards), seed)
    training = Training(recipe, images, [], seed=seed)
    nets = [training.run(keeps=False, shard=shard) for shard in range(num_shards)]
    version = Ensemble(nets, combine="mean")
    inputs = transform_of(recipe, shape=images.shape)(
        torch.from_numpy(images.test_features).to(training.device)
    )
    hits = version.labels(inputs).cpu() == torch.from_numpy(images.test_labels)
    seconds = statistics.median(_seconds(version, inputs) for _ in range(NUM_REPEATS))
    accuracy = 100 * float(hits.double().mean())
    return Sharded(num_shards, seed, accuracy, seconds, training.sizes_SB)


def with_shards(recipe: Recipe, num_shards: int) -> Recipe:
    """Return a recipe that deals its blocks out to shards."""
    plan = recipe.plan
    changed = plan.model_copy(update={"shards": num_shards, "blocks": plan.blocks // num_shards})
    return recipe.model_copy(update={"plan": changed})


def rows_of(made: Sheet, trained: Sequence[Sharded]) -> list[Row]:
    """Return what shards save and cost, against one."""
    rows = []
    plain = [each for each in trained if each.num_shards == 1]
    for num in dict.fromkeys(each.num_shards for each in trained):
        same = [each for each in trained if each.num_shards == num]
        losses = [each.accuracy - one.accuracy for each, one in zip(same, plain, strict=True)]
        costs = [each.predict_seconds / one.predict_seconds for each, one in zip(same, plain, strict=True)]
        of_all = "all records / those trained on again"
        rows += [
            made.median(
                f"{num} shards, from scratch", [s.from_scratch for s in same], unit="x", baseline=of_all
            ),
            made.median(
                f"{num} shards, from its checkpoint", [s.from_checkpoint for s in same], unit="x",
                baseline=of_all,
            ),
            made.median(
                f"{num} shards, test accuracy", [s.accuracy for s in same], unit="%",
                baseline=f"against one: {statistics.fmean(losses):+.2f} points",
            ),
            made.median(f"{num} shards, prediction", costs, unit="x", baseline="seconds of one shard"),
        ]  # fmt: skip
    return rows


def _seconds(version: Ensemble, inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    version.labels(inputs)
    return time.perf_counter() - started
