"""What every command of ``expunge-worker`` shares, and the one that must not import torch: ``work``."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, NoReturn, ParamSpec

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.db.migrate import require_head
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
            _refuse(f"the database cannot be used: {str(error).splitlines()[0]}", error)
        except (ExpungeError, StoreError, ValueError) as error:
            _refuse(str(error), error)

    return wrapped


def open_home() -> Installation:
    """Open the installation that the environment names; its database must be at the newest schema."""
    own = open_installation(get_settings())
    require_head(own.engine)
    configure_dispatch(own.settings)
    return own


def _refuse(problem: str, error: Exception) -> NoReturn:
    print(f"expunge-worker: {problem}", file=sys.stderr)
    raise typer.Exit(2) from error


@one_line
def work(
    until_idle: Annotated[bool, typer.Option(help="Stop when there is nothing left to do.")] = False,
) -> None:
    """Claim and run jobs until stopped: as a broker tells of them, or without one by polling."""
    configure_logging()
    own = open_home()
    supervisor = Supervisor(own)
    supervisor.stop_on_signals()
    with supervisor.housekeeper.at_work(on_end=supervisor.stop):
        if until_idle:
            supervisor.work_until_idle()
        elif own.settings.broker_url:
            _work_on_messages(supervisor, own.settings)
        else:
            supervisor.work()


def _work_on_messages(supervisor: Supervisor, settings: Settings) -> None:
    from worker.consumer import work_on_messages  # a worker that polls needs no Celery

    work_on_messages(supervisor, settings)


def main() -> None:
    """Run ``work`` by itself, without what the other commands import."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(work)
    app(args=sys.argv[2:], prog_name="expunge-worker work")
