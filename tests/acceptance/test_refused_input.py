"""What cannot be used is refused: exit code 2, one line that names the place, and nothing stored."""

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.recipes import write_recipe
from tests.support.service import Done, Home

pytestmark = pytest.mark.xdist_group("test_refused_input")  # they share what takes seconds to start

NUM_AT_ONCE = 2
NUM_RECORDS = 90


def archive(home: Home, name: str, **changes: Any) -> Path:
    """Write an .npz source: 90 records of 30 subjects; a change of None leaves an array out."""
    arrays: dict[str, Any] = {
        "features": np.random.default_rng(0).random((NUM_RECORDS, 64), dtype=np.float32),
        "labels": np.arange(NUM_RECORDS) % 10,
        "record_id": np.array([f"r{row}" for row in range(NUM_RECORDS)]),
        "subject_id": np.array([f"s{row // 3}" for row in range(NUM_RECORDS)]),
    }
    kept = {key: value for key, value in (arrays | changes).items() if value is not None}
    path = home.folder / f"{name}.npz"
    np.savez(path, allow_pickle=False, **kept)
    return path


def missing_file(home: Home) -> tuple[str, ...]:
    return (str(home.folder / "nowhere.parquet"),)


def missing_column(home: Home) -> tuple[str, ...]:
    return (str(archive(home, "column", labels=None)),)


def duplicate_record(home: Home) -> tuple[str, ...]:
    return (str(archive(home, "duplicate", record_id=np.array(["r7"] * NUM_RECORDS))),)


def not_a_number(home: Home) -> tuple[str, ...]:
    features = np.zeros((NUM_RECORDS, 64), dtype=np.float32)
    features[5, 3] = np.nan
    return (str(archive(home, "nan", features=features)),)


def no_records(home: Home) -> tuple[str, ...]:
    nothing: dict[str, Any] = {name: np.array([], dtype="U4") for name in ("record_id", "subject_id")}
    features, labels = np.zeros((0, 64), dtype=np.float32), np.zeros(0, dtype=np.int64)
    return (str(archive(home, "empty", features=features, labels=labels, **nothing)),)


def truncated_gzip(home: Home) -> tuple[str, ...]:
    images = home.folder / "train-images-idx3-ubyte.gz"
    labels = home.folder / "train-labels-idx1-ubyte.gz"
    pixels = np.random.default_rng(0).integers(0, 256, 20 * 64, dtype=np.uint8).tobytes()
    whole = gzip.compress(struct.pack(">IIII", 0x803, 20, 8, 8) + pixels)
    images.write_bytes(whole[: len(whole) // 2])
    labels.write_bytes(gzip.compress(struct.pack(">II", 0x801, 20) + bytes(20)))
    return (str(images), "--labels", str(labels))


SOURCES: dict[str, tuple[Callable[[Home], tuple[str, ...]], str]] = {
    "a missing file": (missing_file, "nowhere.parquet: no such file"),
    "a missing column": (missing_column, "column.npz: no column 'label'"),
    "a duplicate record id": (duplicate_record, "record_id 'r7' is in row 0 and again in row 1"),
    "a NaN": (not_a_number, "row 5 (record_id 'r5'): feature [3] is nan"),
    "a truncated gzip": (truncated_gzip, "train-images-idx3-ubyte.gz"),
    "no records": (no_records, "empty.npz: holds no records"),
}
# What is replaced in a recipe that is right, and what the one line must say.
RECIPES: dict[str, tuple[tuple[str, str], str]] = {
    "an unknown field": (("epochs = ", "epoch = "), "plan.epoch"),
    "a factory that is not there": (("nets:mlp", "nets:none"), "model.factory"),
    "an unknown policy": (('checkpoints = "all"', 'checkpoints = "some"'), "policy.checkpoints"),
    "a prior of another length": (
        ('checkpoints = "all"', 'prior = {kind = "weights", weights = [1, 2]}'),
        "policy.prior.weights: give 8, one a block, not 2",
    ),
    "a dataset that is not there": (
        ('dataset = "digits"', 'dataset = "none"'),
        "no dataset is called 'none'",
    ),
}


@dataclass
class Refusals:
    """The installation, what lay in it before, and how each command ended."""

    home: Home
    before: list[str]
    ended: dict[str, Done] = field(default_factory=dict)

    def run(self, commands: dict[str, tuple[str, ...]]) -> None:
        names = list(commands)
        for start in range(0, len(names), NUM_AT_ONCE):
            part = names[start : start + NUM_AT_ONCE]
            running = {name: self.home.begin("expunge-worker", *commands[name]) for name in part}
            self.ended |= {name: self.home.finish(process) for name, process in running.items()}


@pytest.fixture(scope="module")
def refusals(ordered: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusals]:
    """Every wrong source and every wrong recipe, tried on one installation."""
    home = ordered.copy(tmp_path_factory.mktemp("refusals"))
    found = Refusals(home=home, before=stored(home))
    try:
        found.run(
            {name: ("import", *write(home), "--name", "new") for name, (write, _) in SOURCES.items()}
            | {
                name: ("check", str(write_recipe(home, name="new", change=change)))
                for name, (change, _) in RECIPES.items()
            }
        )
        yield found
    finally:
        home.close()


def stored(home: Home) -> list[str]:
    """Return what is in the installation: datasets, models, and every file but the database's."""
    rows = home.rows("SELECT id FROM datasets UNION SELECT id FROM models UNION SELECT id FROM jobs")
    files = [str(path) for path in home.path.rglob("*") if not path.name.startswith("expunge.db")]
    return sorted([*(row["id"] for row in rows), *files])


@pytest.mark.parametrize("fault", SOURCES)
def test_a_wrong_source_is_refused_in_one_line_that_names_the_place(refusals: Refusals, fault: str) -> None:
    require_one_line(refusals.ended[fault], SOURCES[fault][1])


@pytest.mark.parametrize("fault", RECIPES)
def test_a_wrong_recipe_is_refused_in_one_line_that_names_the_field(refusals: Refusals, fault: str) -> None:
    require_one_line(refusals.ended[fault], RECIPES[fault][1])


def require_one_line(done: Done, words: str) -> None:
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("expunge-worker: ")
    assert words in done.err


def test_what_was_refused_left_nothing_behind(refusals: Refusals) -> None:
    assert stored(refusals.home) == refusals.before


def test_a_subject_larger_than_two_blocks_is_refused_unless_it_may_spread(
    ordered: Home, copy_of: Callable[[Home], Home]
) -> None:
    home = copy_of(ordered)
    large = np.array([f"s{max(0, row - 39)}" for row in range(NUM_RECORDS)])  # 40 records of one subject
    spread = np.where(large == "s0", 3, 1)
    narrow = archive(home, "narrow", subject_id=large)
    wide = archive(home, "wide", subject_id=large, spread=spread)
    imports = [
        home.begin("expunge-worker", "import", str(path), "--held-out", "0") for path in (narrow, wide)
    ]
    assert [home.finish(process).code for process in imports] == [0, 0], home.told()
    recipes = [write_recipe(home, name=name, dataset=name, blocks=6, epochs=1) for name in ("narrow", "wide")]
    checks = [home.begin("expunge-worker", "check", str(recipe)) for recipe in recipes]
    refused, accepted = (home.finish(process) for process in checks)
    require_one_line(refused, "plan.blocks: a subject has 40 records, more than twice the mean block of 15.0")
    assert accepted.code == 0, home.told()
    assert "bit for bit" in accepted.out
