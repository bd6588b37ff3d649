"""The two set-ups: SQLite with workers that poll it; PostgreSQL with Celery on Redis."""

from pathlib import Path

from benchmarks.chaos.installation import Installation
from benchmarks.chaos.models import fill
from benchmarks.client import wait_until_ready

FOLDER = Path(".chaos")
SETUPS = ("sqlite", "postgres")


def set_up(own: Installation, setup: str) -> None:
    """Start the servers of a set-up, train the models, and let every role run."""
    if setup == "postgres":
        own.serve_postgres()
    own.prepare()
    fill(own)
    if setup == "postgres":
        own.serve_redis()
    for role in own.roles.values():
        own.start(role)
    wait_until_ready(own.url, check=lambda: None)
