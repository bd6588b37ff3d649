"""The workload: products post deletions and follow them, an operator looks at models, all the time.

A product does what the contract tells it: one Idempotency-Key a wish, repeated with the same body until an
answer comes. Now and then it repeats one that was answered, asks again for somebody it asked for before,
names somebody nobody knows, or narrows to one model.
"""

import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos.history import Asked, Audited, JobSeen, Posted, Recorder, Seen
from benchmarks.chaos.installation import Installation

ACCEPTED = 202
NUM_POSTERS, NUM_READERS = 3, 2
TIMEOUT_SECONDS = 4.0
RETRY_SECONDS, LOOK_SECONDS, GLANCE_SECONDS = 0.3, 0.25, 0.1
AUDIT_SECONDS = 25.0
UNKNOWN, AGAIN, NARROWED, REPEATED = 0.08, 0.08, 0.15, 0.15
ORACLE_DIFFERS, ORACLE_REFUSED = 1, 2


@dataclass(frozen=True)
class Wish:
    """What one POST asks for."""

    key: str
    subject: str
    models: tuple[str, ...] | None
    is_repeated: bool


@dataclass
class Wishes:
    """The wishes of all products, drawn from one seed; ``subjects`` is whom somebody holds records of."""

    chance: random.Random
    subjects: Sequence[str]
    models: Sequence[str]
    _num: int = 0
    _asked: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> Wish:
        """Return the next wish."""
        with self._lock:
            self._num += 1
            models = (self.chance.choice(self.models),) if self.chance.random() < NARROWED else None
            return Wish(
                key=f"wish-{self._num:06d}",
                subject=self._subject(),
                models=models,
                is_repeated=self.chance.random() < REPEATED,
            )

    def _subject(self) -> str:
        drawn = self.chance.random()
        if drawn < UNKNOWN:
            return f"stranger-{self._num:06d}"
        if self._asked and drawn < UNKNOWN + AGAIN:
            return self.chance.choice(self._asked)
        subject = self.chance.choice(self.subjects)
        self._asked.append(subject)
        return subject


class Workload:
    """Threads that post, read, look and audit until they are stopped."""

    def __init__(
        self, own: Installation, recorder: Recorder, wishes: Wishes, *, pause_seconds: float
    ) -> None:
        self._own, self._recorder, self._wishes = own, recorder, wishes
        self._pause_seconds = pause_seconds * NUM_POSTERS
        self._stopping, self._ending = threading.Event(), threading.Event()
        self._accepted: list[str] = []
        self.num_reads = 0
        self._failure: BaseException | None = None
        posters = [self._post for _ in range(NUM_POSTERS)]
        self._posters = [self._thread(run) for run in posters]
        rest = [self._read] * NUM_READERS + [self._look, self._watch_jobs, self._audit]
        self._others = [self._thread(run) for run in rest]

    def start(self) -> None:
        """Begin."""
        for thread in (*self._posters, *self._others):
            thread.start()

    def stop_posting(self) -> None:
        """Post nothing new; what is under way is repeated until it has been answered."""
        self._stopping.set()

    @property
    def is_posting(self) -> bool:
        """Whether a wish still has no answer, or new ones come."""
        return any(thread.is_alive() for thread in self._posters)

    def stop(self) -> None:
        """End everything; an error of a thread is raised here."""
        self._stopping.set()
        self._ending.set()
        for thread in (*self._posters, *self._others):
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _thread(self, run: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._guarded, args=(run,), daemon=True)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - handed to whoever stops the workload
            self._failure = error

    def _post(self) -> None:
        with self._client(self._own.product_key) as client:
            while not self._stopping.wait(self._pause_seconds):
                wish = self._wishes.next()
                while not self._try(client, wish):
                    if self._ending.wait(RETRY_SECONDS):
                        return
                if wish.is_repeated:
                    self._try(client, wish)

    def _try(self, client: httpx.Client, wish: Wish) -> bool:
        body = {"subject_id": wish.subject} | ({"models": list(wish.models)} if wish.models else {})
        at, status, found = self._recorder.now(), None, None
        try:
            answer = client.post("/deletions", json=body, headers={"Idempotency-Key": wish.key})
            status = answer.status_code
            if status == ACCEPTED:
                found = str(answer.json()["id"])
                self._accepted.append(found)
        except httpx.TransportError:
            pass  # no answer: nobody knows whether it was stored
        self._recorder.add(Posted(at, wish.key, wish.subject, wish.models, status, found))
        return found is not None

    def _read(self) -> None:
        chance = random.Random(threading.get_ident())
        with self._client(self._own.product_key) as client:
            while not self._ending.wait(GLANCE_SECONDS):
                if self._accepted:
                    self._get(client, f"/deletions/{chance.choice(self._accepted)}")

    def _look(self) -> None:
        with self._client(self._own.admin_key) as client:
            while not self._ending.wait(LOOK_SECONDS):
                for model in self._wishes.models:
                    self._look_at(client, model)

    def _look_at(self, client: httpx.Client, model: str) -> None:
        at = self._recorder.now()
        answer = self._get(client, f"/models/{model}/versions/current")
        if answer is None:
            return
        facts = answer.json()
        seen = (facts["number"], facts["covers"], facts["settled"], facts["manifest_digest"])
        self._recorder.add(Seen(at, model, *seen))

    def _get(self, client: httpx.Client, path: str) -> httpx.Response | None:
        at, status = self._recorder.now(), None
        try:
            answer = client.get(path)
            if answer.is_success:
                self.num_reads += 1
                return answer
            status = answer.status_code
        except httpx.TransportError:
            pass  # the server is away
        self._recorder.add(Asked(at, path, status))
        return None

    def _watch_jobs(self) -> None:
        known: dict[str, tuple[object, ...]] = {}
        while not self._ending.wait(GLANCE_SECONDS):
            try:
                at, rows = self._recorder.now(), self._own.rows(_JOBS)
            except SQLAlchemyError:
                continue  # the database is away
            for row in rows:
                if known.get(row["id"]) != (facts := tuple(row.values())):
                    known[row["id"]] = facts
                    self._recorder.add(JobSeen(at, **row))

    def _audit(self) -> None:
        """Let the oracle train what is current now: later, most versions cannot be trained again."""
        number = 0
        while not self._ending.wait(AUDIT_SECONDS):
            audit(self._own, self._recorder, self._wishes.models[number % len(self._wishes.models)])
            number += 1

    def _client(self, key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self._own.url, headers=headers, timeout=TIMEOUT_SECONDS)


_JOBS = "SELECT id, kind, status, step, fence, owner, num_attempts, error FROM jobs ORDER BY created_at, id"


def audit(own: Installation, recorder: Recorder, model: str) -> bool | None:
    """Let the oracle train the current version of a model; None when it could not be asked."""
    done = own.finish("expunge-worker", "oracle", model, "--version", "current", "--json")
    if done.code not in (0, ORACLE_DIFFERS) or not done.out:
        recorder.add(Audited(recorder.now(), model, 0, None))
        return None
    found = json.loads(done.out)
    recorder.add(Audited(recorder.now(), model, int(found["version"]), bool(found["is_equal"])))
    return bool(found["is_equal"])
