"""Trained models to delete from. One training serves all tests that want the default: each gets a copy."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor

from app.domain.terms import DEFAULT_TENANT
from app.settings import Settings
from tests.support.outside import QUICK_POLICY, outside_recipe, save_outside, train_outside
from tests.support.trained import MANY_LONERS, Lab, few_digits, imported, recipe_of
from worker.installation import open_installation
from worker.registering import register
from worker.training.recipe import Recipe

NewLab = Callable[..., Lab]


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory, migrated_home: Path) -> Path:
    """The home of an MLP trained with momentum that kept every checkpoint."""
    home = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(migrated_home, home)
    lab = Lab.create(home, recipe_of(), checkpoints="all")
    lab.work()
    lab.close()
    return home


@pytest.fixture(scope="session")
def sharded_home(tmp_path_factory: pytest.TempPathFactory, migrated_home: Path) -> Path:
    """The same in three shards, of more people."""
    home = tmp_path_factory.mktemp("sharded") / "home"
    shutil.copytree(migrated_home, home)
    lab = Lab.create(home, recipe_of(shards=3), source=few_digits(MANY_LONERS), checkpoints="all")
    lab.work()
    lab.close()
    return home


@pytest.fixture
def sharded(sharded_home: Path, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab.copied(sharded_home, to=tmp_path / "sharded")
    yield lab
    lab.close()


@pytest.fixture
def lab(trained_home: Path, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab.copied(trained_home, to=tmp_path / "lab")
    yield lab
    lab.close()


@pytest.fixture
def twin(trained_home: Path, tmp_path: Path) -> Iterator[Lab]:
    """A second copy of the same training, to do something else with."""
    twin = Lab.copied(trained_home, to=tmp_path / "twin")
    yield twin
    twin.close()


@pytest.fixture
def third(trained_home: Path, tmp_path: Path) -> Iterator[Lab]:
    """A third copy."""
    third = Lab.copied(trained_home, to=tmp_path / "third")
    yield third
    third.close()


@pytest.fixture
def new_lab(migrated_home: Path, tmp_path: Path) -> Iterator[NewLab]:
    """Makes labs with an untrained model; closes them."""
    made: list[Lab] = []

    def make(recipe: Recipe | None = None, **policy: object) -> Lab:
        home = tmp_path / f"new-{len(made)}"
        shutil.copytree(migrated_home, home)
        made.append(Lab.create(home, recipe or recipe_of(), **policy))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.fixture(scope="session")
def outside_weights() -> dict[str, Tensor]:
    return train_outside(few_digits(), num_epochs=40)


@pytest.fixture(scope="session")
def imported_home(tmp_path_factory: pytest.TempPathFactory, migrated_home: Path) -> Path:
    """A home with the few digits and no model."""
    home = tmp_path_factory.mktemp("imported") / "home"
    shutil.copytree(migrated_home, home)
    imported(home).engine.dispose()
    return home


@pytest.fixture(scope="session")
def registered_home(
    tmp_path_factory: pytest.TempPathFactory, imported_home: Path, outside_weights: dict[str, Tensor]
) -> Path:
    """The same with the model registered: examined once for all tests."""
    home = tmp_path_factory.mktemp("registered") / "home"
    shutil.copytree(imported_home, home)
    own = open_installation(Settings(home=home))
    path = save_outside(outside_weights, home.parent / "outside.safetensors")
    register(own, outside_recipe(), QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT)
    own.engine.dispose()
    return home
