"""Installations to start from. Each is made once; a test takes a copy and may do with it what it likes."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from filelock import FileLock

from tests.support.kills import kill_all
from tests.support.people import Subject, subject_in
from tests.support.recipes import write_recipe
from tests.support.service import Home, Service


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the one story in one process: telling it takes a server, a worker and a minute."""
    for item in items:
        if isinstance(item, pytest.Function) and "story" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("story"))


@dataclass(frozen=True)
class Story:
    """One deletion that nothing disturbed, and what the oracle says of the version it led to."""

    service: Service
    subject: Subject
    acknowledgement: dict[str, Any]
    before: dict[str, Any]
    oracle: dict[str, Any]

    @property
    def id(self) -> str:
        """The deletion's id."""
        return str(self.acknowledgement["id"])

    @property
    def weights_digest(self) -> str:
        """What every other way to forget the same subject must lead to."""
        return str(self.oracle["oracle_digest"])


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The digits imported, and no model."""

    def make(home: Home) -> None:
        home.prepare()
        home.run("expunge-worker", "import", "digits", "--records-per-subject", "3")

    return made_once(tmp_path_factory, "imported", make)


@pytest.fixture(scope="session")
def ordered(tmp_path_factory: pytest.TempPathFactory, imported: Home) -> Home:
    """A training that was killed as soon as it was ordered."""

    def make(home: Home) -> None:
        home.take_over(imported)
        training = home.begin("expunge-worker", "train", str(write_recipe(home)))
        home.wait_for("the order", lambda: home.rows("SELECT id FROM jobs"))
        kill_all(home, training)

    return made_once(tmp_path_factory, "ordered", make)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, ordered: Home) -> Home:
    """Version 1, from a training that nothing disturbed."""

    def make(home: Home) -> None:
        home.take_over(ordered)
        home.run("expunge-worker", "train", str(write_recipe(home)))

    return made_once(tmp_path_factory, "trained", make)


@pytest.fixture(scope="package")
def story(tmp_path_factory: pytest.TempPathFactory, trained: Home) -> Iterator[Story]:
    """A server and a worker at work on two models of one dataset, and their first deletion."""
    home = trained.copy(tmp_path_factory.mktemp("town"))
    try:
        other = home.begin("expunge-worker", "train", str(write_recipe(home, name="other", seed=7, epochs=5)))
        home.worker()
        with home.service() as service:
            assert home.finish(other).code == 0, home.told()
            subject = forgotten_subject(home)
            before = service.version("digits")
            acknowledgement = service.post(subject.id, reason_code="art17")
            service.wait_until_completed(acknowledgement["id"])
            done = home.run("expunge-worker", "oracle", "digits", "--version", "2", "--json")
            yield Story(
                service=service, subject=subject, acknowledgement=acknowledgement, before=before,
                oracle=json.loads(done.out),
            )  # fmt: skip
    finally:
        home.close()


@pytest.fixture(scope="package")
def town(story: Story) -> Service:
    """The server of two models, after its first deletion; every test posts other subjects to it."""
    return story.service


@pytest.fixture
def copy_of(tmp_path: Path) -> Iterator[Callable[[Home], Home]]:
    """Makes copies of installations; whatever runs in them ends with the test."""
    homes: list[Home] = []

    def copy(home: Home) -> Home:
        folder = tmp_path / str(len(homes))
        folder.mkdir()
        homes.append(home.copy(folder))
        return homes[-1]

    yield copy
    for home in homes:
        home.close()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Home], None]) -> Home:
    """Return an installation that whichever test process needs it first has made; nothing runs in it."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / f"{name}.json"
    with FileLock(folder / f"{name}.lock"):
        if not made.exists():
            home = Home(folder=Path(mkdtemp(dir=folder, prefix=f"{name}-")))
            try:
                make(home)
            finally:
                home.close()
            made.write_text(json.dumps([str(home.folder), home.admin_key, home.product_key]))
    home_folder, admin_key, product_key = json.loads(made.read_text())
    return Home(folder=Path(home_folder), admin_key=admin_key, product_key=product_key)


def forgotten_subject(home: Home) -> Subject:
    """Return the subject of the story: the same one in every copy of an installation."""
    return subject_in(home, block=2)
