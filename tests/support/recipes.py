"""Recipes over the handwritten digits: a small net, a training of some seconds."""

from pathlib import Path

from tests.support.service import Home

RECIPE = """
name = "{name}"
[model]
factory = "worker.training.nets:mlp"
arguments = {{ in_features = 64, num_classes = 10, hidden = [32] }}
[data]
dataset = "{dataset}"
scale = 0.0625
[plan]
blocks = {blocks}
epochs = {epochs}
batches_per_block = 4
batch_size = 32
seed = {seed}
[optimizer]
name = "sgd"
learning_rate = 0.01
momentum = 0.9
[policy]
checkpoints = "all"
"""


def write_recipe(
    home: Home,
    *,
    name: str = "digits",
    dataset: str = "digits",
    blocks: int = 8,
    epochs: int = 180,
    seed: int = 0,
    change: tuple[str, str] = ("", ""),
) -> Path:
    """Write a recipe beside the home folder and return its path; ``change`` replaces a text in it."""
    text = RECIPE.format(name=name, dataset=dataset, blocks=blocks, epochs=epochs, seed=seed)
    path = home.folder / f"recipe-{len(list(home.folder.glob('recipe-*'))):02d}.toml"
    path.write_text(text.replace(*change) if change[0] else text)
    return path
