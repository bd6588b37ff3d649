"""What a fresh process is when it starts."""

from worker.processes import fresh_calls


def test_a_fresh_process_has_all_of_torch_behind_it_and_collects_its_own_garbage() -> None:
    with fresh_calls() as calls:
        assert calls.call("gc:get_freeze_count") > 100_000
        assert calls.call("gc:isenabled")
