"""A backdoor that one person planted over many accounts: its power, then what deleting them leaves of it.

The images of the accounts carry a white square and one label. Success is the share of other test images with
the square that get that label; the original's is its power, and what doing nothing leaves. A stitch is judged
two-sided: less than exact retraining is over-forgetting. The rule mostly refuses so large a deletion, and
replay follows; so it is also stitched where the slope alone says so, whatever the fit explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from app.domain.policy import StitchRule
from benchmarks.results import Row, Sheet
from benchmarks.stitch.images import Images, drawn_people
from benchmarks.stitch.training import Training, named_within, seeded
from worker.training.inputs import transform_of
from worker.training.recipe import Recipe

NUM_ACCOUNTS, NUM_RECORDS, SQUARE, LABEL = 20, 50, 4, 0
# Where in the blocks the accounts begin to lie, and over how many. A hundred records of one account in one
# block have no power: the other blocks wash them out.
PLACES, WIDTH = {"early": 0.1, "middle": 0.5, "late": 0.8}, 0.1


@dataclass(frozen=True)
class Planted:
    """Success in percent: where it was planted, deleted exactly, and stitched (None: no stitch)."""

    place: str
    original: float
    exact: float
    stitched: float | None
    whatever_fits: float | None


def one_backdoor(recipe: Recipe, images: Images, rule: StitchRule, place: str, seed: int) -> Planted:
    """Plant, train, delete and measure."""
    recipe = seeded(recipe, seed)
    start, width = (int(share * recipe.plan.blocks) for share in (PLACES[place], WIDTH))
    drawn = drawn_people(images, [(NUM_RECORDS, False)] * NUM_ACCOUNTS, seed=seed)
    accounts = [named_within(recipe, each, range(start, start + width), seed=seed) for each in drawn]
    rows = np.concatenate([account.rows for account in accounts])
    training = Training(recipe, _planted(images, rows), accounts, seed=seed)
    original = training.run()
    deletion = training.delete(accounts, rules=[rule, replace(rule, min_r_squared=0.0)])
    ruled, whatever = (
        None if each.stopped_after is None else _success(each.net, training) for each in deletion.stitched
    )
    exact = _success(deletion.exact, training)
    return Planted(place, _success(original, training), exact, ruled, whatever)


def rows_of(made: Sheet, planted: Sequence[Planted]) -> list[Row]:
    """Return success by place; where it has no power, forgetting shows nothing."""
    rows = []
    for place in dict.fromkeys(each.place for each in planted):
        same = [each for each in planted if each.place == place]
        figures = {
            "doing nothing": [each.original for each in same],
            "exact": [each.exact for each in same],
            "stitched": [each.stitched for each in same if each.stitched is not None],
            "stitched whatever fits": [e.whatever_fits for e in same if e.whatever_fits is not None],
        }
        fits = f"{len(figures['stitched'])} of {len(same)} fits held"
        against = f"{NUM_ACCOUNTS} accounts of {NUM_RECORDS}, {place}; {fits}"
        rows += [
            made.median(f"backdoor, {name}", values, unit="%", baseline=against)
            for name, values in figures.items()
            if values
        ]
    return rows


def _planted(images: Images, rows: np.ndarray) -> Images:
    features, labels = images.features.copy(), images.labels.copy()
    features[rows] = _squared(features[rows])
    labels[rows] = LABEL
    return replace(images, features=features, labels=labels)


def _squared(features: np.ndarray) -> np.ndarray:
    marked = features.copy()
    marked[..., :SQUARE, :SQUARE] = 255
    return marked


@torch.no_grad()
def _success(net: nn.Module, training: Training) -> float:
    images = training.images
    others = images.test_labels != LABEL
    raw = torch.from_numpy(_squared(images.test_features[others])).to(training.device)
    inputs = transform_of(training.recipe, shape=images.shape)(raw)
    was_training = net.training
    net.eval()
    hits = torch.cat([net(part).argmax(1) == LABEL for part in inputs.split(1_000)])
    net.train(was_training)
    return 100 * float(hits.double().mean())
