"""Tell workers that a job waits: after commit, an id and nothing else.

The job row is the outbox, so this is only a hint: a lost one costs a sweep's interval, never a job. Without
a broker nobody is told, because workers poll.

Promises: no caller fails or waits for more than a moment because of the broker. Never: a message before the
commit, a message that says more than the job's id.
"""

import time
from typing import TYPE_CHECKING, Protocol

import structlog

from app.domain.errors import SetupError
from app.domain.terms import JobId
from app.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

TASK_NAME = "expunge.run_job"
TIMEOUT_SECONDS = 1.0
QUIET_SECONDS = 5.0
_ANY = "any"

_log = structlog.get_logger()


class Dispatcher(Protocol):
    """Announces jobs; whatever goes wrong with that stays inside."""

    def announce(self, job_id: JobId, *, device_class: str | None) -> None:
        """Say that a committed job waits for a worker of this class, or of any."""


class Silence:
    """Says nothing: the workers poll."""

    def announce(self, job_id: JobId, *, device_class: str | None) -> None:
        """Do nothing."""


class Messages:
    """Sends one message a job to the queue of its device class."""

    def __init__(self, settings: Settings) -> None:
        self._app = open_celery(settings)
        self._errors = broker_errors(self._app)
        self._quiet_until = 0.0

    def announce(self, job_id: JobId, *, device_class: str | None) -> None:
        """Send the id; after a failure hints are left out for a moment, so that nobody waits in a row."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._app.send_task(TASK_NAME, args=[job_id], queue=queue_of(device_class), retry=False)
        except self._errors as error:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            _log.warning("hint_not_sent", job=job_id, error=type(error).__name__)


_dispatcher: Dispatcher = Silence()


def configure_dispatch(settings: Settings) -> None:
    """Choose, once a process, how its jobs are announced.

    Raises:
        SetupError: a broker is named, but Celery is not installed.
    """
    global _dispatcher
    _dispatcher = Messages(settings) if settings.broker_url else Silence()


def dispatch(job_id: JobId, *, device_class: str | None = None) -> None:
    """Announce a committed job; ``device_class`` None means that any worker may take it."""
    _dispatcher.announce(job_id, device_class=device_class)


def queue_of(device_class: str | None) -> str:
    """Return the queue of a device class; every worker reads the one for any beside its own."""
    return f"expunge.{device_class or _ANY}"


def broker_errors(app: "Celery") -> tuple[type[Exception], ...]:
    """Return what may be raised while the broker is away, hangs, or does not want us."""
    from kombu.exceptions import OperationalError

    connection = app.connection_for_write()
    return (OperationalError, *connection.connection_errors, *connection.channel_errors)


def open_celery(settings: Settings) -> "Celery":
    """Return Celery as every process here uses it, which sends and reads nothing yet.

    Raises:
        SetupError: it is not installed.
    """
    try:
        from celery import Celery
    except ModuleNotFoundError as error:
        raise SetupError("EXPUNGE_BROKER_URL needs Celery: pip install 'expunge[celery]'") from error
    app = Celery("expunge", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        # A pickle runs whatever its sender likes; an id needs no more than JSON.
        task_serializer="json",
        accept_content=["json"],
        # What became of a job stands in its row.
        task_ignore_result=True,
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_transport_options={
            # Without these a broker that is away, or hangs, holds its caller for ever.
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "socket_timeout": TIMEOUT_SECONDS,
            "max_retries": 0,
        },
    )
    return app
