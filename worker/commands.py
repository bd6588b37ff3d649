"""What every command of ``expunge-worker`` shares, and the one that must not import torch: ``work``."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, NoReturn, ParamSpec

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.db.connecting import WORKER_PATIENCE_SECONDS, reason_of
from app.db.migrate import check_database
from app.dispatch import configure_dispatch
from app.domain.errors import ExpungeError
from app.logs import configure_logging
from app.settings import Settings, get_settings
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
        except SQLAlchemyError as error:
            _refuse(f"the database cannot be used: {reason_of(error)}", error)
        except (ExpungeError, StoreError, ValueError) as error:
            _refuse(str(error), error)

    return wrapped


def _refuse(problem: str, error: Exception) -> NoReturn:
    print(f"expunge-worker: {problem}", file=sys.stderr)
    raise typer.Exit(2) from error


def open_home(*, patience_seconds: float = WORKER_PATIENCE_SECONDS) -> Installation:
    """Open the installation that the environment names; its database must be at the newest schema."""
    settings = get_settings()
    # Once at work a worker is patient; who starts one wants to hear of a wrong address at once.
    check_database(settings.resolved_database_url)
    configure_dispatch(settings)
    return open_installation(settings, patience_seconds=patience_seconds)


@one_line
def work(
    until_idle: Annotated[bool, typer.Option(help="Stop when there is nothing left to do.")] = False,
) -> None:
    """Claim and run jobs until stopped: as a broker tells of them, or without one by polling."""
    configure_logging()
    # It has loops of its own for a database that is away, and a child to watch meanwhile.
    own = open_home(patience_seconds=0.0)
    run = _way_to_work(own.settings)
    supervisor = Supervisor(own)
    supervisor.stop_on_signals()
    with supervisor.housekeeper.at_work(on_end=supervisor.stop):
        supervisor.work_until_idle() if until_idle else run(supervisor)


def _way_to_work(settings: Settings) -> Callable[[Supervisor], None]:
    """Choose between polling and listening; what is not safe is refused before anything is started."""
    if not settings.broker_url:
        return Supervisor.work
    from worker.consumer import Consumer  # a worker that polls needs no Celery

    return Consumer(settings).work


def main() -> None:
    """Run ``work`` by itself, without what the other commands import."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(work)
    app(args=sys.argv[2:], prog_name="expunge-worker work")
