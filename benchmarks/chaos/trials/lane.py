"""A lane: one model, the hands that compete for its jobs, the trials, and what none of them may show."""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sqlalchemy import text

from app.db.migrate import upgrade
from app.domain.status import JobStatus
from app.domain.terms import JobId, ModelId
from app.keyring import create_keys, load_keyring
from app.services.retry import retry_failed
from app.settings import Settings
from benchmarks.chaos.trials.hands import (
    CLAIMED,
    LEASE_SECONDS,
    MODEL,
    PATIENCE_SECONDS,
    Hand,
    Home,
    Story,
    start_hand,
)
from tests.support.world import World

HANDS_A_LANE, DELIVERIES = 3, 4
BEYOND_SECONDS, SLICE_SECONDS, DWELL_SECONDS = 0.05, 0.04, 0.04
GLANCE_SECONDS, TAKEOVER_SECONDS = 0.02, 1.0
DUPLICATE, PAUSE = "duplicate delivery", "paused past the lease"


@dataclass
class Lane:
    """One model with the processes that compete for its jobs."""

    world: World
    hands: list[Hand]
    chance: random.Random
    num_posted: int = 0
    trials: Counter[str] = field(default_factory=Counter)
    fenced: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, num_trials: int) -> None:
        """Run so many trials, both kinds in turn."""
        for number in range(num_trials):
            job_id = self._post()
            if number % 2:
                self.trials[DUPLICATE] += 1
                stories = self._deliver_to_all(job_id)
            else:
                stories = self._pause(job_id)
            self._judge(job_id, stories)

    def _post(self) -> JobId:
        """Submit and seal one deletion; return the job queued for it."""
        self.num_posted += 1
        self.world.sealed(f"subject-{self.num_posted}", models=[MODEL])
        (job,) = self._rows("SELECT id FROM jobs WHERE status = 'queued'")
        return JobId(str(job["id"]))

    def _deliver_to_all(self, job_id: JobId) -> list[Story]:
        for _ in range(DELIVERIES):
            for hand in self.hands:
                hand.deliver(job_id, dwell_seconds=self.chance.uniform(0, DWELL_SECONDS))
        return [hand.story() for hand in self.hands for _ in range(DELIVERIES)]

    def _pause(self, job_id: JobId) -> list[Story]:
        """Stop the holder somewhere in its work; let another take over; wake it before or after that ends."""
        holder, heir, *_ = self.chance.sample(self.hands, k=2)
        holder.deliver(job_id, dwell_seconds=self.chance.uniform(0, DWELL_SECONDS))
        assert holder.hears(PATIENCE_SECONDS) == CLAIMED
        time.sleep(self.chance.uniform(0, SLICE_SECONDS))
        holder.send(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + BEYOND_SECONDS)
        heir.deliver(job_id, dwell_seconds=self.chance.uniform(0, DWELL_SECONDS))
        # Stopped inside a transaction, the holder keeps its lock: nobody can take over before it goes on.
        word = heir.hears(TAKEOVER_SECONDS)
        stories = []
        if word == CLAIMED:
            self.trials[PAUSE] += 1
            if self.chance.random() < 0.5:
                stories.append(heir.story())
        holder.send(signal.SIGCONT)
        if isinstance(word, Story):
            stories.append(word)
        return [*stories, holder.story(), *([] if stories else [heir.story()])]

    def _judge(self, job_id: JobId, stories: list[Story]) -> None:
        """Note what no trial may show, once the deletion's version is out."""
        last = self._end(job_id, stories)
        for job in {job_id, last}:
            (found,) = self._rows("SELECT count(*) AS num FROM versions WHERE job_id = :id", id=job)
            if found["num"] != (job == last):
                self.wrong.append(f"{job}: {found['num']} versions")
        claims = sorted((s for s in stories if s.fence is not None), key=lambda s: s.fence or 0)
        for story, successor in pairwise(claims):
            if story.fence == successor.fence:
                self.wrong.append(f"{job_id}: two claims with fence {story.fence}")
            for write in story.writes:
                self.fenced[write.name] += not write.got_through
                if write.began > successor.claimed and write.got_through:
                    self.wrong.append(f"{job_id}: a stale {write.name} got through")

    def _end(self, job_id: JobId, stories: list[Story]) -> JobId:
        """Let a hand end what nobody has; what used up its attempts is tried again, as by an operator."""
        last = job_id
        while True:
            (job,) = self._rows("SELECT status, model_id FROM jobs WHERE id = :id", id=last)
            if job["status"] == JobStatus.SUCCEEDED:
                return last
            if job["status"] == JobStatus.FAILED:
                (last,) = retry_failed(self.world.sessions, ModelId(str(job["model_id"])))
            time.sleep(GLANCE_SECONDS)
            self.hands[0].deliver(last, dwell_seconds=0.0)
            story = self.hands[0].story()
            if last == job_id:
                stories.append(story)

    def check_line(self) -> None:
        """Note what the whole line of versions shows wrong."""
        versions = self._rows("SELECT number, covers, settled FROM versions ORDER BY number")
        numbers = [row["number"] for row in versions]
        if numbers != list(range(1, self.num_posted + 2)):
            self.wrong.append(f"{len(numbers)} versions of {self.num_posted} jobs and a training: {numbers}")
        coverage = [(row["covers"], row["settled"]) for row in versions]
        if coverage != sorted(coverage):
            self.wrong.append("coverage fell")

    def close(self) -> None:
        """End the hands."""
        for hand in self.hands:
            hand.send(signal.SIGCONT)
            hand.process.kill()
            hand.process.join()

    def _rows(self, query: str, **values: object) -> list[dict[str, object]]:
        with self.world.sessions() as session:
            return [dict(row) for row in session.execute(text(query), values).mappings()]


def open_lane(folder: Path, *, database_url: str, seed: str, num_trials: int) -> Lane:
    """Make a database with one model that has a version, a subject for each trial, and the hands."""
    settings = Settings(home=folder)
    create_keys(settings)
    upgrade(database_url)
    home = Home(database_url, load_keyring(settings), store=folder / "store")
    world = home.world()
    dataset = world.dataset(subjects={f"subject-{number}": 1 for number in range(1, num_trials + 1)})
    world.train(world.model(MODEL, dataset=dataset, num_records=num_trials), name=MODEL, weights=b"version 1")
    hands = [start_hand(home) for _ in range(HANDS_A_LANE)]
    return Lane(world, hands, chance=random.Random(seed))
