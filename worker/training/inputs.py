"""How a recipe turns the raw features of a dataset into inputs: for jobs, trials, and the oracle alike."""

from collections.abc import Iterable

from worker.data.loader import Transform
from worker.training.recipe import NetRecipe


def transform_of(recipe: NetRecipe, *, shape: Iterable[int]) -> Transform:
    """Return the transform; ``shape`` is that of one record's features, where the recipe names none."""
    data = recipe.data
    return Transform(scale=data.scale, mean=data.mean, std=data.std, shape=data.shape or tuple(shape))
