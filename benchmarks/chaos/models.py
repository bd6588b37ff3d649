"""What the service holds before the storm: two datasets of digits, three small models, two of them on one.

A full training takes about a second, so that a settlement with its processes takes two to four and hundreds
of faults fit into minutes. The two models of one dataset share the bytes of its records; the third model has
two shards.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.chaos.installation import Installation

NUM_SUBJECTS = 899
DATASETS = {"digits": 3, "more-digits": 2}  # and the records of a subject
MODELS = {"alpha": "digits", "beta": "digits", "gamma": "more-digits"}
SHARDS = {"alpha": 1, "beta": 1, "gamma": 2}
RECIPE = """
name = "{name}"
[model]
factory = "worker.training.nets:mlp"
arguments = {{ in_features = 64, num_classes = 10, hidden = [32] }}
[data]
dataset = "{dataset}"
scale = 0.0625
[plan]
blocks = 6
shards = {shards}
epochs = {epochs}
batches_per_block = 4
batch_size = 64
seed = {seed}
[optimizer]
name = "sgd"
learning_rate = 0.01
momentum = 0.9
[policy]
checkpoints = "all"
"""
EPOCHS = 60


def subject_ids() -> list[str]:
    """Return those that one of the datasets, or both, hold records of."""
    return [f"synthetic-{number:06d}" for number in range(NUM_SUBJECTS)]


def fill(own: Installation, *, epochs: int = EPOCHS) -> None:
    """Import the datasets and train the models, undisturbed."""
    imports = [
        ("import", "digits", "--name", dataset, "--records-per-subject", str(size))
        for dataset, size in DATASETS.items()
    ]
    trainings = [("train", str(_recipe(own, name, epochs=epochs))) for name in MODELS]
    with ThreadPoolExecutor() as pool:
        for commands in (imports, trainings):
            list(pool.map(lambda command: own.run("expunge-worker", *command), commands))


def _recipe(own: Installation, name: str, *, epochs: int) -> Path:
    path = own.folder / f"{name}.toml"
    seed = list(MODELS).index(name)
    path.write_text(
        RECIPE.format(name=name, dataset=MODELS[name], epochs=epochs, seed=seed, shards=SHARDS[name])
    )
    return path
