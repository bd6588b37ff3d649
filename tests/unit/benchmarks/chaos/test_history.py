"""The history of a chaos run: read back as it was written, and how long dead workers' jobs waited in it."""

from pathlib import Path

from benchmarks.chaos.history import Event, JobSeen, Posted, Recorder, Retried, Seen, Struck, read_history
from benchmarks.chaos.report import rerun_seconds

EVENTS: list[Event] = [
    Posted(at=1.0, key="a", subject="ann", models=("churn", "fraud"), status=None, id=None),
    Seen(at=2.0, model="churn", number=1, covers=0, settled=0, manifest_digest="m1"),
    Retried(at=3.0, model="churn", jobs=("job_1",)),
]


def _job(at: float, *, fence: int, status: str = "running") -> JobSeen:
    return JobSeen(at, "job_1", "settle", status, "unlearn", fence, None, fence, None)


def _death(at: float, *, fence: int | None, kind: str = "kill worker") -> Struck:
    return Struck(at, 1, kind, "worker-1", "job_1" if fence else None, fence)


def test_events_come_back_as_they_were_written_in_the_order_of_their_times(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    for event in reversed(EVENTS):
        recorder.add(event)
    recorder.close()
    assert read_history(tmp_path / "history.jsonl") == EVENTS


def test_a_dead_workers_job_waits_until_somebody_claims_it_with_a_higher_fence() -> None:
    history: list[Event] = [_job(1.0, fence=1), _death(2.0, fence=1), _job(2.5, fence=1), _job(6.0, fence=2)]
    assert rerun_seconds(history) == [4.0]


def test_a_death_without_a_job_and_a_fault_that_kills_no_worker_have_no_waiting_time() -> None:
    later = _job(6.0, fence=2)
    assert rerun_seconds([_death(2.0, fence=None), later]) == []
    assert rerun_seconds([_death(2.0, fence=1, kind="kill child"), later]) == []
