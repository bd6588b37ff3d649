"""When a job starts: with its batch, and never too late to be in time."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.scheduling import (
    WaitingJob,
    latest_safe_starts,
    predicted_lateness,
    safe_seconds,
    wished_start,
)

_times = st.floats(0, 1e6, allow_nan=False)
_jobs = st.lists(st.tuples(_times, st.floats(0.1, 1e3)), min_size=1, max_size=8).map(
    lambda pairs: [
        WaitingJob(id=str(n), due_at=due, seconds=seconds) for n, (due, seconds) in enumerate(pairs)
    ]
)


@given(_jobs)
def test_one_worker_that_starts_each_job_at_its_latest_safe_start_is_never_late(
    jobs: list[WaitingJob],
) -> None:
    starts = latest_safe_starts(jobs, num_workers=1)
    free_at = -math.inf
    for job in sorted(jobs, key=lambda job: starts[job.id]):
        assert starts[job.id] >= free_at - 1e-6
        free_at = starts[job.id] + job.seconds
        assert free_at <= job.due_at + 1e-6


@given(_jobs, st.integers(1, 5))
def test_no_job_could_start_later_than_that(jobs: list[WaitingJob], num_workers: int) -> None:
    starts = latest_safe_starts(jobs, num_workers=num_workers)
    last = max(jobs, key=lambda job: (job.due_at, job.id))
    assert starts[last.id] == last.due_at - last.seconds
    for job in jobs:
        assert starts[job.id] <= job.due_at - job.seconds


@given(_jobs, st.integers(1, 5))
def test_more_workers_never_need_an_earlier_start(jobs: list[WaitingJob], num_workers: int) -> None:
    few = latest_safe_starts(jobs, num_workers=num_workers)
    more = latest_safe_starts(jobs, num_workers=num_workers + 1)
    assert all(more[job.id] >= few[job.id] - 1e-6 for job in jobs)


@given(_jobs)
def test_lateness_is_foretold_exactly_when_starting_now_is_past_the_latest_safe_start(
    jobs: list[WaitingJob],
) -> None:
    starts = latest_safe_starts(jobs, num_workers=1)
    earliest = min(starts.values())
    assume(abs(earliest) > 1e-3)
    late = predicted_lateness(jobs, now=0.0, num_workers=1)
    assert bool(late) is (earliest < 0)
    assert all(seconds > 0 for seconds in late.values())


def test_without_a_worker_a_job_is_planned_as_for_one() -> None:
    job = WaitingJob(id="a", due_at=100.0, seconds=10.0)
    assert latest_safe_starts([job], num_workers=0) == latest_safe_starts([job], num_workers=1)


@given(st.lists(st.floats(0.1, 1e3), max_size=60), st.floats(0.1, 1e3))
def test_the_plan_trusts_a_prediction_only_after_five_runs(runs: list[float], predicted: float) -> None:
    seconds = safe_seconds(predicted, runs)
    if len(runs) < 5:
        assert seconds == 3 * predicted
    else:
        assert sum(run <= seconds / 2 for run in runs) >= 0.95 * len(runs)


@given(st.integers(0, 20), st.none() | st.integers(1, 20), st.floats(0, 1e4))
def test_a_batch_starts_when_its_window_closes_or_when_it_is_full(
    num_waiting: int, count: int | None, window: float
) -> None:
    start = wished_start(1e6, window_seconds=window, num_waiting=num_waiting, count=count)
    is_full = count is not None and num_waiting >= count
    assert start == (1e6 if is_full else 1e6 + window)
