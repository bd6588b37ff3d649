"""The service under load: PostgreSQL, uvicorn and the client on two cores, over a million requests.

The database syncs every commit. Posts, status reads and pages arrive at a fixed rate, evenly spaced, whether
or not earlier ones were answered, and a latency counts from when the call was due. Every call carries a real
API key and every post an Idempotency-Key; a post has one target. Pages of fifty are read as a product and as
an admin, from the start and from a place 300 days deep. The bare endpoint inserts one row: FastAPI with the
same server settings, driver, pool and database, without keys. Low and high are the quickest and the slowest.
"""

import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.domain.access import Scope
from app.domain.terms import DEFAULT_TENANT
from app.services.api_keys import create_key
from benchmarks.arrivals import Load, MakeRequest, in_turns, on_schedule, request_bytes
from benchmarks.bare import create_table
from benchmarks.client import AnswerUnexpected, wait_until_ready
from benchmarks.door import add_models
from benchmarks.homes import Home, temporary_home
from benchmarks.million import EVERYBODY, NAMED_BY, insert_many
from benchmarks.processes import ended_by_signals, free_port
from benchmarks.results import Row, Sheet, print_rows, sheet, write_rows
from benchmarks.selections import selections
from tests.support.servers import PostgresServer

COMMAND = "python -m benchmarks.load"
SECONDS, WARM_UP_SECONDS, NUM_REQUESTS = 60.0, 3.0, 1_000_000
NUM_CORES, NUM_WORKERS, NUM_CLIENTS = 2, 2, 8
POSTS, READS, PAGES = 200, 500, 20  # a second
POST_LIMIT, READ_LIMIT, PAGE_LIMIT = 250.0, 100.0, 100.0  # milliseconds, of the p99
ACCEPTED, FOUND = 202, 200
URL_VARIABLE = "EXPUNGE_DATABASE_URL"


@dataclass(frozen=True)
class Run:
    """What one open loop found, and what was promised of it."""

    name: str
    load: Load
    wanted: int
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether every answer was what it should be and the p99 is within its limit."""
        return self.load.num_other_than(self.wanted) == 0 and _quantile(self.load, 99) <= self.limit

    def rows(self, made: Sheet) -> list[Row]:
        """Return what is written of it."""
        rate = f"{len(self.load.answers)} calls, {self.load.rate:.1f}/s"
        times, errors = self.load.milliseconds, self.load.num_other_than(self.wanted)
        p99 = f"target <= {self.limit:g}"
        return [
            made.quantile(f"{self.name}, p50", times, percent=50, unit="ms", baseline=rate),
            made.quantile(f"{self.name}, p99", times, percent=99, unit="ms", baseline=p99),
            made.one(f"{self.name}, errors", errors, unit="answers", baseline="target 0"),
        ]


def main() -> int:
    """Measure, print, write; 1 when a target is missed or an answer is not what it should be."""
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_CORES])  # what is started inherits it
    made = sheet(f"{COMMAND} --seconds {options.seconds:g} --requests {options.requests}", threads=1)
    with ended_by_signals(), _database(), temporary_home() as home:
        model_ids = add_models(home, names=tuple(NAMED_BY))
        insert_many(home.context.engine, options.requests, tenant=DEFAULT_TENANT, model_ids=model_ids)
        bare = _bare(home, seconds=options.seconds)
        runs, ours = _service(home, seconds=options.seconds)
    rows = [row for run in runs[:3] for row in run.rows(made)]
    rows += [_selection_row(made, run) for run in runs[3:]] + _ratio_rows(made, bare=bare, ours=ours)
    print_rows(rows, title="load")
    print(f"wrote {write_rows('load', rows)}")
    return 0 if all(run.is_met for run in runs) else 1


@contextmanager
def _database() -> Iterator[None]:
    """Start a PostgreSQL that loses nothing, and let everything that follows use a database in it."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server may not run as root: another account enters
        server = PostgresServer.start(folder, durable=True, settings={"shared_buffers": "512MB"})
        try:
            os.environ[URL_VARIABLE] = server.create_database("load")
            yield
        finally:
            del os.environ[URL_VARIABLE]
            server.stop()


def _bare(home: Home, *, seconds: float) -> Load:
    """Return what fits through the bare endpoint."""
    create_table(os.environ[URL_VARIABLE])
    command = ("uvicorn", "benchmarks.bare:create_bare_app", "--factory", "--no-access-log")
    port = _start(home, *command, "--no-server-header", ready="/openapi.json")

    def post(_: int) -> bytes:
        return _posted("/rows", {"subject_id": secrets.token_hex(8)}, {})

    return _most(port, post, seconds=seconds)


def _service(home: Home, *, seconds: float) -> tuple[list[Run], Load]:
    """Return the open loops over the service, and what fits through its POST."""
    scopes = {"product": {Scope.DELETIONS_CREATE, Scope.DELETIONS_READ}, "admin": {Scope.ADMIN}}
    keys = {
        name: create_key(home.own.sessions, tenant=DEFAULT_TENANT, name=name, scopes=allowed).token
        for name, allowed in scopes.items()
    }
    port = _start(home, "expunge", "serve", ready="/readyz")

    def post(_: int) -> bytes:
        subject = secrets.token_hex(8)
        headers = _authorised(keys["product"]) | {"Idempotency-Key": subject}
        return _posted("/deletions", {"subject_id": subject, "models": [EVERYBODY]}, headers)

    ours = _most(port, post, seconds=seconds)
    posts = on_schedule(port, post, rate=POSTS, seconds=seconds)
    ids = [json.loads(answer.body)["id"] for answer in posts.answers if answer.status == ACCEPTED]

    def read(number: int) -> bytes:
        return _got(f"/deletions/{ids[number % len(ids)]}", keys["product"])

    reads = on_schedule(port, read, rate=READS, seconds=seconds)
    runs = [
        Run(f"POST /deletions, {POSTS} a second", posts, wanted=ACCEPTED, limit=POST_LIMIT),
        Run(f"GET /deletions/ID, {READS} a second", reads, wanted=FOUND, limit=READ_LIMIT),
    ]
    return runs + _page_runs(port, keys, home=home, seconds=seconds), ours


def _page_runs(port: int, keys: Mapping[str, str], *, home: Home, seconds: float) -> list[Run]:
    """Return all pages as one run, then the same answers by what the list was narrowed to."""
    asked = selections(now=time.time(), keyring=home.own.keyring)

    def page(number: int) -> bytes:
        selection = asked[number % len(asked)]
        return _got(f"/deletions{selection.query}", keys[selection.caller])

    pages = on_schedule(port, page, rate=PAGES, seconds=seconds)

    def part(name: str) -> Run:
        answers = [each for each in pages.answers if asked[each.number % len(asked)].name == name]
        return Run(name, Load(answers, pages.seconds), wanted=FOUND, limit=PAGE_LIMIT)

    names = dict.fromkeys(selection.name for selection in asked)
    whole = Run("GET /deletions, a page", pages, wanted=FOUND, limit=PAGE_LIMIT)
    return [whole, *(part(name) for name in names)]


def _most(port: int, post: MakeRequest, *, seconds: float) -> Load:
    """Return what a few connections get through that always have a call under way, after a warm-up."""
    in_turns(port, post, num_clients=NUM_CLIENTS, seconds=WARM_UP_SECONDS)
    load = in_turns(port, post, num_clients=NUM_CLIENTS, seconds=seconds / 6)
    if load.num_other_than(ACCEPTED):
        raise AnswerUnexpected("a post was not accepted")
    return load


def _start(home: Home, *command: str, ready: str) -> int:
    """Start a server on a free port, wait until it answers, and return the port."""
    port = free_port()
    server = home.processes.start(*command, "--port", str(port), "--workers", str(NUM_WORKERS))
    wait_until_ready(
        f"http://127.0.0.1:{port}", path=ready, check=lambda: home.processes.require_running(server)
    )
    return port


def _authorised(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _posted(path: str, body: Mapping[str, object], headers: Mapping[str, str]) -> bytes:
    typed = {"Content-Type": "application/json", **headers}
    return request_bytes("POST", path, headers=typed, body=json.dumps(body).encode())


def _got(path: str, key: str) -> bytes:
    return request_bytes("GET", path, headers=_authorised(key))


def _quantile(load: Load, percent: int) -> float:
    return statistics.quantiles(load.milliseconds, n=100, method="inclusive")[percent - 1]


def _selection_row(made: Sheet, run: Run) -> Row:
    against = f"p99 {_quantile(run.load, 99):.0f}, {len(run.load.answers)} calls"
    return made.quantile(run.name, run.load.milliseconds, percent=50, unit="ms", baseline=against)


def _ratio_rows(made: Sheet, *, bare: Load, ours: Load) -> list[Row]:
    against = f"{NUM_CLIENTS} clients in turns, {NUM_WORKERS} server processes"
    return [
        made.one("POST /deletions, most", ours.rate, unit="1/s", baseline=against),
        made.one("bare endpoint, most", bare.rate, unit="1/s", baseline=against),
        made.one("POST /deletions / bare endpoint", ours.rate / bare.rate, unit="ratio", baseline="same run"),
    ]


def _options() -> Namespace:
    parser = ArgumentParser(prog=COMMAND)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each load lasts")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help="how many there are before")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
