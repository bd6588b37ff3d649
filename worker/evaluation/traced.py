"""The trace of stitching: what each shard measured, where it stopped and why."""

from typing import Any

from worker.evaluation.gates import Check

NAME = "stitching"
POWER = (
    "none for forgetting: the stop rule does not bound the blocks that were not retrained, "
    "and the error is exactly their sum"
)


def trace_check(trace: list[dict[str, Any]]) -> Check:
    """Put the traces, one a shard, among the evidence; they gate nothing."""
    return Check(name=NAME, holds=True, is_gate=False, power=POWER, figures={"shards": [*trace]})
