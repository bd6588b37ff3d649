"""Celery as a worker uses it: one thread that takes hints from Redis; the database decides what they mean.

Promises: no option makes a job's safety depend on the broker. Never: results, pickles, redelivery.
"""

import os
from collections.abc import Mapping
from typing import Any

from celery import Celery

from app.dispatch import broker_errors, open_celery, queue_of
from app.domain.errors import SetupError
from app.settings import Settings

WORKER_OPTIONS: dict[str, Any] = {
    # A child process runs the job: a thread that waits for it is all that is needed. Celery's own children
    # are daemonic, so they may have none, and a fork does not mix with CUDA.
    "worker_pool": "threads",
    "worker_concurrency": 1,
    # Before the work: a hint that dies with its worker is repaired by the sweep, while a late one would
    # come again after the visibility timeout, in the middle of a long job.
    "task_acks_late": False,
    # A busy worker keeps no hint that an idle one could use.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A broker that comes back after a day finds its workers still trying, and their jobs undisturbed.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Workers know of each other through the database: no events, no remote control, no chatter.
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
    # Our logs are JSON lines on stderr; Celery writes into them and changes nothing.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}
# Consuming, a connection waits for the broker's next word: only a dead one is dropped, by kombu's checks.
_CONSUMER_TRANSPORT = {"socket_connect_timeout": 2.0, "socket_timeout": 10.0, "health_check_interval": 10}

# What would lose or forge jobs, whoever sets it, and why.
_UNSAFE: Mapping[str, tuple[Any, str]] = {
    "task_always_eager": (False, "eager tasks run a job in whoever announces it"),
    "task_serializer": ("json", "only JSON is read: a pickle runs what its sender likes"),
    "accept_content": (["json"], "only JSON is read: a pickle runs what its sender likes"),
    "task_acks_late": (False, "late acknowledgement runs long jobs twice"),
}


def open_worker_app(settings: Settings, *, device_class: str) -> Celery:
    """Return Celery set up to read the hints for this worker.

    Raises:
        SetupError: Celery is missing, the settings are not safe together, or the broker does not answer.
    """
    _require_own_settings(settings)
    app = open_celery(settings)
    app.conf.update(WORKER_OPTIONS)
    app.conf.broker_transport_options = _CONSUMER_TRANSPORT
    app.conf.task_queues = {queue_of(name): {} for name in (None, device_class)}
    require_safe(app)
    _require_broker(settings)
    return app


def require_safe(app: Celery) -> None:
    """Look at the options as they came to be.

    Raises:
        SetupError: one of them would put jobs at risk.
    """
    for name, (safe, why) in _UNSAFE.items():
        if app.conf[name] != safe:
            raise SetupError(f"Celery's {name} must be {safe!r}: {why}")


def _require_own_settings(settings: Settings) -> None:
    names = sorted(name for name in os.environ if name.startswith("CELERY_"))
    if names:
        raise SetupError(
            f"unset {names[0]}: Celery is set up by EXPUNGE_BROKER_URL alone, and by nothing unsafe"
        )
    if settings.resolved_database_url.startswith("sqlite"):
        raise SetupError(
            "EXPUNGE_BROKER_URL needs a PostgreSQL EXPUNGE_DATABASE_URL: "
            "an SQLite file is not shared by several hosts, and its workers poll"
        )


def _require_broker(settings: Settings) -> None:
    app = open_celery(settings)
    try:
        with app.connection_for_write() as connection:
            connection.default_channel.client.ping()
    except broker_errors(app) as error:
        raise SetupError(
            f"the broker of EXPUNGE_BROKER_URL does not answer: {type(error).__name__}"
        ) from error
