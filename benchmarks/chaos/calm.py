"""The calm after the storm: wait until everything is done, and do what an operator would for what failed."""

import time

from benchmarks.chaos.history import Recorder, Retried
from benchmarks.chaos.installation import Installation
from benchmarks.chaos.storm import Storm
from benchmarks.chaos.workload import Workload

CALM_SECONDS = 240.0
QUIET_SECONDS = 2.0
GLANCE_SECONDS = 0.25
RETRY_SECONDS = 5.0
_OPEN = (
    "SELECT (SELECT count(*) FROM requests WHERE status != 'completed') "
    "+ (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')) AS num"
)
_FAILED = (
    "SELECT DISTINCT m.name FROM targets t JOIN models m ON m.id = t.model_id WHERE t.status = 'failed' "
    "AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.model_id = m.id AND j.status IN ('queued', 'running'))"
)


def settle_down(own: Installation, storm: Storm, workload: Workload, recorder: Recorder) -> None:
    """Wait until no wish, request or job is open for a moment; the checker finds out if that did not come."""
    until = time.monotonic() + CALM_SECONDS
    quiet_since, retry_at = None, 0.0
    while time.monotonic() < until:
        storm.look_after()
        if workload.is_posting or own.rows(_OPEN)[0]["num"]:
            quiet_since = None
        else:
            quiet_since = quiet_since or time.monotonic()
            if time.monotonic() - quiet_since >= QUIET_SECONDS:
                return
        if time.monotonic() >= retry_at:
            retry_at = time.monotonic() + RETRY_SECONDS
            _retry_failed(own, recorder)
        time.sleep(GLANCE_SECONDS)


def _retry_failed(own: Installation, recorder: Recorder) -> None:
    for row in own.rows(_FAILED):
        printed = own.run("expunge", "deletions", "retry", row["name"])
        jobs = tuple(line.removeprefix("queued ") for line in printed.splitlines() if "queued" in line)
        recorder.add(Retried(recorder.now(), row["name"], jobs))
