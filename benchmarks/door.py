"""How fast the door is: POST /deletions on SQLite with uvicorn, next to what the database alone can do.

Every 202 is a durable transaction, so the disk's sync sets the pace. The bare transaction is one small row,
committed under the same settings. There is one model. Ten seconds of eight clients, each with one connection,
in this process; the server has one process. For information: there is no figure to reach.
"""

import http.client
import json
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from app.domain.terms import DEFAULT_TENANT
from app.services.create_model import NewModel, create_model
from benchmarks.client import wait_until_ready
from benchmarks.homes import RECIPES, Home, temporary_home
from benchmarks.processes import Processes, free_port
from benchmarks.results import Row, print_rows, sheet, write_rows
from worker.checking import placer
from worker.training.recipe import read_recipe

COMMAND = "python -m benchmarks.door"
NUM_CLIENTS, SECONDS, BARE_SECONDS, NUM_PARTS = 8, 10.0, 3.0, 5
ACCEPTED = 202


def main() -> int:
    """Measure, print, write."""
    with temporary_home() as home:
        add_models(home)
        key = home.processes.run("expunge", "keys", "create", "door", "--scope", "deletions:create").strip()
        bare = bare_transactions_a_second(home.folder / "bare.db")
        ended = posts(home.processes, key=key)
    rows = _rows(ended, bare=bare)
    print_rows(rows, title="door")
    print(f"wrote {write_rows('door', rows)}")
    return 0


def add_models(home: Home, *, names: Sequence[str] = ("digits",)) -> dict[str, str]:
    """Give the requests targets: models on the digits, whose training waits for a worker; name -> id."""
    home.processes.run("expunge-worker", "import", "digits", "--name", "digits")
    recipe, policy = read_recipe(RECIPES / "digits.toml")
    new = NewModel(
        name=recipe.name,
        dataset=recipe.data.dataset,
        recipe=recipe.to_json(),
        recipe_digest=recipe.digest(),
        policy=asdict(policy),
        training_seconds=1.0,
    )
    place = partial(placer, home.own.keyring, recipe)
    return {
        name: create_model(
            home.own.sessions, replace(new, name=name), tenant=DEFAULT_TENANT, place=place
        ).model_id
        for name in names
    }


def posts(processes: Processes, *, key: str) -> list[tuple[float, float]]:
    """Post for some seconds; return, for each post, when it ended and how long it took, in seconds."""
    port = free_port()
    server = processes.start("expunge", "serve", "--port", str(port))
    wait_until_ready(f"http://127.0.0.1:{port}", check=lambda: processes.require_running(server))
    done: list[tuple[float, float]] = []
    started = time.monotonic()
    clients = [
        threading.Thread(target=_post_until, args=(started + SECONDS, port, key, name, done))
        for name in range(NUM_CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return [(at - started, seconds) for at, seconds in done]


def bare_transactions_a_second(path: Path) -> list[float]:
    """Commit one small row at a time with the service's settings; return the rate of each part."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY, body BLOB)")
        return [_rate(connection) for _ in range(NUM_PARTS)]


def _rate(connection: sqlite3.Connection) -> float:
    started, num = time.monotonic(), 0
    while time.monotonic() < started + BARE_SECONDS / NUM_PARTS:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO requests (body) VALUES (?)", (bytes(200),))
        connection.execute("COMMIT")
        num += 1
    return num / (time.monotonic() - started)


def _post_until(until: float, port: int, key: str, client: int, done: list[tuple[float, float]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    number = 0
    while time.monotonic() < until:
        body = json.dumps({"subject_id": f"synthetic-{client}-{number}"})
        started = time.monotonic()
        connection.request("POST", "/deletions", body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == ACCEPTED, answer.status
        ended = time.monotonic()
        done.append((ended, ended - started))
        number += 1


def _rows(ended: list[tuple[float, float]], *, bare: list[float]) -> list[Row]:
    made = sheet(COMMAND, threads=1)
    part = SECONDS / NUM_PARTS
    rates = [sum(n * part <= at < (n + 1) * part for at, _ in ended) / part for n in range(NUM_PARTS)]
    cuts = statistics.quantiles((1_000 * seconds for _, seconds in ended), n=100)
    against = f"{NUM_CLIENTS} clients, {len(ended)} posts"
    return [
        made.median("POST /deletions", rates, unit="1/s", baseline=against),
        made.one("POST /deletions, p50", cuts[49], unit="ms", baseline=against),
        made.one("POST /deletions, p99", cuts[98], unit="ms", baseline=against),
        made.median("bare transaction", bare, unit="1/s", baseline="one row, one connection"),
    ]


if __name__ == "__main__":
    sys.exit(main())
