"""What empirical methods saw of themselves: where a stitch stopped and why, what a course did."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.evaluation.gates import Check

NAME = "stitching"
POWER = (
    "none for forgetting: the stop rule does not bound the blocks that were not retrained, "
    "and the error is exactly their sum"
)


def trace_check(trace: list[dict[str, Any]]) -> Check:
    """Put the traces, one a shard, among the evidence; they gate nothing."""
    return Check(name=NAME, holds=True, is_gate=False, power=POWER, figures={"shards": [*trace]})


def course_check(course: list[dict[str, Any]]) -> Check:
    """Put the diagnostics of a gradient method, one entry a shard, among the evidence.

    It gates nothing, and does not hold where a reader should know something before trusting it.
    """
    warnings = [f"shard {each['shard']}: {warning}" for each in course for warning in each["warnings"]]
    power = "none for forgetting: it says whether the method did what it is meant to do"
    return Check(
        name="course",
        holds=not warnings,
        is_gate=False,
        power=power,
        figures={"shards": [*course]},
        problem="; ".join(warnings),
    )


def chain_check(*, num_before: int, base_covers: int) -> Check:
    """Say how many treated versions lie between the registered one and this one; it gates nothing."""
    power = (
        "none for forgetting: each treatment began from what the last one left, and what treatments leave "
        "behind adds up"
    )
    figures = {"num_treatments_before": num_before, "base_covers": base_covers}
    return Check(name="chain", holds=True, is_gate=False, power=power, figures=dict(figures))


def error_check(
    exact: Sequence[nn.Module],
    *,
    interim: Sequence[Mapping[str, Tensor]],
    original: Sequence[Mapping[str, Tensor]],
    version: int,
) -> Check:
    """Say how far the interim version before this exact one was off, beside the version before both.

    Constituents in shard order; the L1 distance of all parameters. For a stitch it is what the blocks that
    were not retrained add up to.
    """
    figures = {
        "interim_version": version,
        "l1_interim_to_exact": _distance(exact, interim),
        "l1_original_to_exact": _distance(exact, original),
    }
    power = "certain for the distance of weights; it says nothing of what they remember"
    return Check(name="interim_error", holds=True, is_gate=False, power=power, figures=dict(figures))


def _distance(nets: Sequence[nn.Module], others: Sequence[Mapping[str, Tensor]]) -> float:
    parts = [
        (parameter.detach().cpu().double() - other[name].double()).abs().sum()
        for net, other in zip(nets, others, strict=True)
        for name, parameter in net.named_parameters()
    ]
    return float(torch.stack(parts).sum())
