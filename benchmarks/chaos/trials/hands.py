"""Hands: worker-like processes that claim a job, write what a worker writes, and tell what became of it.

They use the service's own claim, fence and publication over the real database and store; there is no training
and no torch, so a dozen of them start at once.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from app.db.session import open_engine, open_sessions
from app.domain.errors import LeaseLost
from app.domain.terms import Claim, JobId
from app.keyring import Keyring
from app.services.claim import claim_next, finish, heartbeat
from models_store.blobs import BlobStore
from tests.support.world import ENVIRONMENT, World
from worker.processes import die_with_parent

LEASE_SECONDS = 0.8
PATIENCE_SECONDS = 60.0
MODEL = "churn"
CLAIMED = "claimed"


@dataclass(frozen=True)
class Write:
    """One write of a hand: when it began, and whether it got through the fence."""

    name: str
    began: float
    got_through: bool


@dataclass(frozen=True)
class Story:
    """What a hand did with one delivery; ``fence`` is None when it could not claim the job."""

    fence: int | None = None
    claimed: float = 0.0
    writes: tuple[Write, ...] = ()


@dataclass(frozen=True)
class Home:
    """What every hand of a lane opens for itself."""

    database_url: str
    keyring: Keyring
    store: Path

    def world(self) -> World:
        """Open everything."""
        engine = open_engine(self.database_url)
        return World(open_sessions(engine), self.keyring, BlobStore(self.store))


@dataclass
class Hand:
    """A worker-like process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def deliver(self, job_id: JobId, *, dwell_seconds: float) -> None:
        """Give it a job's id, as a message would."""
        self.pipe.send((job_id, dwell_seconds))

    def send(self, number: signal.Signals) -> None:
        """Stop it, or let it go on."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def hears(self, seconds: float) -> object | None:
        """Return its next word, None if it says nothing in time."""
        return self.pipe.recv() if self.pipe.poll(seconds) else None

    def story(self) -> Story:
        """Return what it did with the oldest delivery that it has not told of."""
        while True:
            word = self.hears(PATIENCE_SECONDS)
            assert word is not None, "a hand says nothing any more"
            if isinstance(word, Story):
                return word


def start_hand(home: Home) -> Hand:
    """Start a process that waits for deliveries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pipe, other_end = context.Pipe()
    process = context.Process(target=work, args=(home, other_end), daemon=True)
    process.start()
    other_end.close()
    return Hand(process, pipe)


def work(home: Home, pipe: Connection) -> None:
    """Do what a worker does with every id that comes, without the training; the entry point of a hand."""
    die_with_parent()
    world = home.world()
    while True:
        job_id, dwell_seconds = pipe.recv()
        pipe.send(_worked(world, job_id, pipe=pipe, dwell_seconds=dwell_seconds))


def _worked(world: World, job_id: JobId, *, pipe: Connection, dwell_seconds: float) -> Story:
    owner = f"hand:{os.getpid()}"
    claim = claim_next(
        world.sessions,
        owner=owner,
        environment_digest=ENVIRONMENT,
        store=world.store,
        only=job_id,
        lease_seconds=LEASE_SECONDS,
    )
    if claim is None:
        return Story()
    claimed = time.monotonic()
    pipe.send(CLAIMED)
    time.sleep(dwell_seconds)
    return Story(fence=claim.fence, claimed=claimed, writes=tuple(_writes(world, claim)))


def _writes(world: World, claim: Claim) -> Iterator[Write]:
    """Write what a worker would, and go on after the fence stopped one: nothing may get through later."""
    weights = f"{claim.job_id} {claim.fence}".encode()

    def prolong() -> None:
        if not heartbeat(world.sessions, claim, lease_seconds=LEASE_SECONDS):
            raise LeaseLost("no heartbeat")

    steps: dict[str, Callable[[], object]] = {
        "heartbeat": prolong,
        "publication": lambda: world.publish(claim, name=MODEL, weights=weights),
        "end": lambda: finish(world.sessions, claim, output={}, store=world.store),
    }
    for name, step in steps.items():
        began = time.monotonic()
        try:
            step()
        except LeaseLost:
            yield Write(name, began, got_through=False)
        else:
            yield Write(name, began, got_through=True)
