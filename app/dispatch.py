"""Tell workers that a job waits: after commit, an id and nothing else.

The job row is the outbox, so this is only a hint: a lost one costs a poll interval, never a job. Workers
poll the database today; a broker takes this place without any caller changing.
"""

import structlog

from app.domain.terms import JobId

_log = structlog.get_logger()


def dispatch(job_id: JobId) -> None:
    """Announce a committed job."""
    _log.debug("job_waits", job=job_id)
