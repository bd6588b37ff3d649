"""Installations to start from. Each is made once; a test takes a copy and may do with it what it likes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.kills import kill_all
from tests.support.people import Subject, subject_in
from tests.support.recipes import write_recipe
from tests.support.service import Home, Service


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
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The digits imported, and a training that was killed as soon as it was ordered."""
    home = Home(folder=tmp_path_factory.mktemp("ordered"))
    try:
        home.prepare()
        home.run("expunge-worker", "import", "digits", "--records-per-subject", "3")
        training = home.begin("expunge-worker", "train", str(write_recipe(home)))
        home.wait_for("the order", lambda: home.rows("SELECT id FROM jobs"))
        kill_all(home, training)
        yield home
    finally:
        home.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, ordered: Home) -> Iterator[Home]:
    """Version 1, from a training that nothing disturbed."""
    home = ordered.copy(tmp_path_factory.mktemp("trained"))
    try:
        home.run("expunge-worker", "train", str(write_recipe(home)))
        yield home
    finally:
        home.close()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


def forgotten_subject(home: Home) -> Subject:
    """Return the subject of the story: the same one in every copy of an installation."""
    return subject_in(home, block=2)
