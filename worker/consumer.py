"""Work on messages: Celery's consumer in this process, and beside it the worker's own look around.

Promises: losing all of Redis costs a sweep's interval; when the supervisor stops, the consumer does. Never:
two jobs at once in one worker.
"""

import os
import threading

from celery.worker import WorkController, state

from app.settings import Settings
from worker.celery_app import open_worker_app
from worker.supervisor import Supervisor
from worker.tasks import register_tasks

RESTART_SECONDS = 5.0


def work_on_messages(supervisor: Supervisor, settings: Settings) -> None:
    """Run jobs as messages come, and those whose messages were lost, until the supervisor is stopped.

    Raises:
        SetupError: this worker would not be safe, or has no broker to listen to.
    """
    app = open_worker_app(settings, device_class=supervisor.device_class)
    register_tasks(app, supervisor)
    looking = threading.Thread(target=_look_around, args=(supervisor,), name="look-around")
    looking.start()
    try:
        while not supervisor.is_stopping:
            # Nobody reads events, so nobody sends them: no heartbeat, no gossip, no mingle.
            WorkController(app, without_heartbeat=True, without_gossip=True, without_mingle=True).start()
            # It has said why. Until it is back, jobs are found by looking.
            supervisor.wait(RESTART_SECONDS)
    finally:
        supervisor.stop()
        looking.join()


def _look_around(supervisor: Supervisor) -> None:
    try:
        supervisor.look_around()
    finally:
        # Celery asks this between two polls of its own.
        state.should_stop = os.EX_OK
