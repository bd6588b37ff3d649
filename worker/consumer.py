"""Work on messages: Celery's consumer in this process, and beside it the worker's own look around.

Promises: losing all of Redis costs a sweep's interval; when the supervisor stops, the consumer does. Never:
two jobs at once in one worker.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from celery.worker import WorkController, state

from app.settings import Settings
from worker.celery_app import open_worker_app, queues_of
from worker.supervisor import Supervisor
from worker.tasks import register_tasks

RESTART_SECONDS = 5.0


class Consumer:
    """A worker's ear; making one refuses what would not be safe, before anything is started.

    Raises:
        SetupError: the settings do not go together, or the broker does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = open_worker_app(settings)

    def work(self, supervisor: Supervisor) -> None:
        """Run jobs as messages come, and those whose messages were lost, until the supervisor is stopped.

        What broke the look around is raised at the end.
        """
        self._app.conf.task_queues = queues_of(supervisor.device_class)
        register_tasks(self._app, supervisor)
        with ThreadPoolExecutor(1, thread_name_prefix="look-around") as threads:
            looking = threads.submit(_look_around, supervisor)
            self._listen(supervisor)
        looking.result()

    def _listen(self, supervisor: Supervisor) -> None:
        try:
            while not supervisor.is_stopping:
                # Nobody reads events, so nobody sends them: no heartbeat, no gossip, no mingle.
                flags = {"without_heartbeat": True, "without_gossip": True, "without_mingle": True}
                WorkController(self._app, **flags).start()
                # It has said why. Until it is back, jobs are found by looking.
                supervisor.wait(RESTART_SECONDS)
        finally:
            supervisor.stop()


def _look_around(supervisor: Supervisor) -> None:
    try:
        supervisor.look_around()
    finally:
        # A worker that no longer looks must not seem alive.
        supervisor.stop()
        # Celery asks this between two polls of its own.
        state.should_stop = os.EX_OK
