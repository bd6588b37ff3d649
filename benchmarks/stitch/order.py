"""What block-sequential training costs in accuracy, and how far two trainings of other seeds lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.results import Row, Sheet
from benchmarks.stitch.figures import Outputs, outputs_of
from benchmarks.stitch.images import Images
from benchmarks.stitch.sweep import with_blocks
from benchmarks.stitch.training import Training, seeded, transform_of
from worker.training.recipe import Recipe

# One block is shuffled training: every epoch goes over all records before the next.
BLOCKS = (1, 100, 500, 1_000)


@dataclass(frozen=True)
class Trained:
    """What one training predicts on the test images.

    As arrays: a process that hands tensors over and ends takes their shared memory with it.
    """

    num_blocks: int
    seed: int
    log_shares_NK: np.ndarray
    labels_N: np.ndarray

    @property
    def outputs(self) -> Outputs:
        """The same as figures are taken of."""
        return Outputs(torch.from_numpy(self.log_shares_NK), torch.from_numpy(self.labels_N))


def one_order(recipe: Recipe, images: Images, num_blocks: int, seed: int) -> Trained:
    """Train with so many blocks and as many steps in all."""
    recipe = seeded(with_blocks(recipe, num_blocks), seed)
    training = Training(recipe, images, [], seed=seed)
    net = training.run(keeps=False)
    inputs = transform_of(recipe, images)(torch.from_numpy(images.test_features).to(training.device))
    found = outputs_of(net, inputs, torch.from_numpy(images.test_labels))
    return Trained(num_blocks, seed, found.log_shares_NK.numpy(), found.labels_N.numpy())


def rows_of(made: Sheet, trained: Sequence[Trained]) -> list[Row]:
    """Return accuracy by number of blocks, and the floor between seeds at the most blocks."""
    rows = []
    for num in dict.fromkeys(each.num_blocks for each in trained):
        values = [each.outputs.accuracy for each in trained if each.num_blocks == num]
        name = "shuffled, one block" if num == 1 else f"B = {num}"
        rows.append(made.median(f"test accuracy, {name}", values, unit="%", baseline="same steps in all"))
    most = max(each.num_blocks for each in trained)
    same = [each.outputs for each in trained if each.num_blocks == most]
    pairs = [(one, other) for i, one in enumerate(same) for other in same[i + 1 :]]
    against = f"pairs of {len(same)} seeds, B = {most}"
    rows.append(
        made.median(
            "disagreement of seeds", [a.disagreement(b) for a, b in pairs], unit="%", baseline=against
        )
    )
    rows.append(
        made.median("KL of seeds", [a.divergence_from(b) for a, b in pairs], unit="nats", baseline=against)
    )
    return rows
