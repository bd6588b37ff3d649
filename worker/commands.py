"""What every command of ``expunge-worker`` shares, and the one that must not import torch: ``work``."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from app.db.migrate import check_database
from app.domain.errors import ExpungeError
from app.logs import configure_logging
from app.settings import get_settings
from models_store.errors import StoreError
from worker.installation import Installation, open_installation
from worker.supervisor import Supervisor

P = ParamSpec("P")


def one_line(command: Callable[P, None]) -> Callable[P, None]:
    """Turn every error a caller can understand into one line on stderr and exit code 2."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ExpungeError, StoreError, ValueError) as error:
            print(f"expunge-worker: {error}", file=sys.stderr)
            raise typer.Exit(2) from error

    return wrapped


def open_home() -> Installation:
    """Open the installation that the environment names; its database must be at the newest schema."""
    settings = get_settings()
    # Once at work a worker is patient; who starts one wants to hear of a wrong address at once.
    check_database(settings.resolved_database_url)
    return open_installation(settings)


@one_line
def work(
    until_idle: Annotated[bool, typer.Option(help="Stop when there is nothing left to do.")] = False,
) -> None:
    """Claim and run jobs until stopped."""
    configure_logging()
    supervisor = Supervisor(open_home())
    supervisor.stop_on_signals()
    supervisor.work(until_idle=until_idle)


def main() -> None:
    """Run ``work`` by itself, without what the other commands import."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(work)
    app(args=sys.argv[2:], prog_name="expunge-worker work")
