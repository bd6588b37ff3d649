"""What a manifest says of inputs and labels: all that somebody needs who loads a version elsewhere."""

from app.domain.terms import JsonObject
from worker.data.data_files import Layout
from worker.training.recipe import NetRecipe


def input_schema(recipe: NetRecipe, layout: Layout) -> JsonObject:
    """Return how raw records become inputs: x = (raw * scale - mean) / std, then ``shape``."""
    data = recipe.data
    return {
        "shape": list(data.shape or layout.shape),
        "raw_dtype": layout.dtype,
        "raw_shape": list(layout.shape),
        "scale": data.scale,
        "mean": list(data.mean),
        "std": list(data.std),
    }


def label_schema(layout: Layout) -> JsonObject:
    """Return what the scores of a version are of."""
    return {"kind": "integer class", "num_classes": layout.num_classes}
