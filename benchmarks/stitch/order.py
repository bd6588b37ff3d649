"""What block-sequential training costs in accuracy, and how far two trainings of other seeds lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.results import Row, Sheet
from benchmarks.stitch.figures import Arrays, Outputs, outputs_of
from benchmarks.stitch.headline import floor_rows
from benchmarks.stitch.images import Images
from benchmarks.stitch.sweep import with_blocks
from benchmarks.stitch.training import Training, seeded
from worker.training.inputs import transform_of
from worker.training.recipe import Recipe

# One block is shuffled training: every epoch goes over all records before the next.
BLOCKS = (1, 100, 500, 1_000)


@dataclass(frozen=True)
class Trained:
    """What one training predicts on the test images."""

    num_blocks: int
    seed: int
    arrays: Arrays


def one_order(recipe: Recipe, images: Images, num_blocks: int, seed: int) -> Trained:
    """Train with so many blocks and as many steps in all."""
    recipe = seeded(with_blocks(recipe, num_blocks), seed)
    training = Training(recipe, images, [], seed=seed)
    net = training.run(keeps=False)
    inputs = transform_of(recipe, shape=images.shape)(
        torch.from_numpy(images.test_features).to(training.device)
    )
    found = outputs_of(net, inputs, torch.from_numpy(images.test_labels))
    return Trained(num_blocks, seed, found.to_arrays())


def rows_of(made: Sheet, trained: Sequence[Trained]) -> list[Row]:
    """Return accuracy by number of blocks, and the floor between seeds at the most blocks."""
    rows = []
    outputs = {
        num: [Outputs.from_arrays(each.arrays) for each in trained if each.num_blocks == num]
        for num in dict.fromkeys(each.num_blocks for each in trained)
    }
    for num, same in outputs.items():
        name = "shuffled, one block" if num == 1 else f"B = {num}"
        values = [each.accuracy for each in same]
        rows.append(made.median(f"test accuracy, {name}", values, unit="%", baseline="same steps in all"))
    most = max(outputs)
    return [
        *rows,
        *floor_rows(made, outputs[most], against=f"pairs of {len(outputs[most])} seeds, B = {most}"),
    ]
