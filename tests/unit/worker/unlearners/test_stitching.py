"""Residual memory, the stitch itself and running statistics, against closed forms."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from app.domain.policy import StitchRule
from worker.unlearners.stitching import (
    ReferenceMissing,
    Retraining,
    estimate_batch_norm,
    fault_of,
    parameters_of,
    residual_memory,
    stitch,
)


class Known:
    """References that hold one number after each block."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def after(self, position: int) -> Mapping[str, Tensor]:
        if position >= len(self._values):
            raise ReferenceMissing(str(position))
        return {"weight": torch.tensor([[self._values[position]]])}


def net(value: float) -> nn.Module:
    """Return a net of one number."""
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_the_residual_is_the_l1_distance_of_what_one_block_changed() -> None:
    before, after = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([1.5, 1.0])}
    own_before, own = {"a": torch.tensor([10.0, 20.0])}, {"a": torch.tensor([10.0, 20.25])}
    assert residual_memory(before, after, own_before=own_before, own=own) == 0.5 + 1.25
    assert residual_memory(before, after, own_before=before, own=after) == 0.0


def test_residuals_begin_at_the_first_touched_block_and_points_at_the_last() -> None:
    retraining = Retraining(Known(1, 3, 6, 10, 15), StitchRule(), touched=[1, 3])
    retraining.before_first(net(0.0))
    for position, own in enumerate([1.0, 2.0, 6.0, 9.0, 14.5]):
        ruling = retraining.after_block(position, net(own))
        assert ruling.why == ("nothing was measured" if position < 3 else "too few points")
    # What the references changed: 2, 3, 4, 5; what the retraining did: 1, 4, 3, 5.5.
    assert retraining.residuals == [1.0, 1.0, 1.0, 0.5]
    assert retraining.points == [1.0, 0.5]


def test_a_run_that_starts_at_the_touched_block_needs_no_reference_before_it() -> None:
    retraining = Retraining(Known(99, 3), StitchRule(), touched=[1])
    retraining.before_first(net(2.0))
    retraining.after_block(1, net(2.5))
    assert retraining.residuals == [0.5]


def test_a_missing_reference_is_said() -> None:
    retraining = Retraining(Known(1.0), StitchRule(), touched=[1])
    retraining.before_first(net(1.0))
    with pytest.raises(ReferenceMissing):
        retraining.after_block(1, net(1.0))


def test_the_stitch_adds_what_the_references_did_and_leaves_buffers_alone() -> None:
    own = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    here = {name: torch.rand_like(tensor) for name, tensor in parameters_of(own).items()}
    end = {name: torch.rand_like(tensor) for name, tensor in here.items()}
    before, buffers = parameters_of(own), [buffer.clone() for buffer in own.buffers()]
    stitch(own, here=here, end=end)
    for name, tensor in parameters_of(own).items():
        wanted = before[name].double() + (end[name].double() - here[name].double())
        assert torch.equal(tensor, wanted.float())
    assert all(torch.equal(one, other) for one, other in zip(buffers, own.buffers(), strict=True))


def test_a_stitch_where_nothing_differs_gives_the_end_of_the_last_run() -> None:
    own, end = net(1.25), {"weight": torch.tensor([[3.5]])}
    stitch(own, here=parameters_of(own), end=end)
    assert torch.equal(parameters_of(own)["weight"], end["weight"])


def test_running_statistics_are_the_averages_over_the_batches() -> None:
    norm = nn.BatchNorm1d(2)
    own = nn.Sequential(norm, nn.Dropout(0.9)).eval()
    norm.running_var.fill_(-1.0)
    batches = [torch.randn(n, 2) for n in (5, 9, 30)]
    weights = parameters_of(own)
    estimate_batch_norm(own, batches)
    means = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variances = torch.stack([batch.var(0, unbiased=True) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert (norm.momentum, norm.training, own.training) == (0.1, False, False)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in parameters_of(own).items())


def test_an_unusable_net_is_named() -> None:
    fine = nn.BatchNorm1d(2)
    assert fault_of(fine) == ""
    fine.running_var[1] = -0.1
    assert fault_of(fine) == "running_var is negative"
    assert fault_of(net(float("nan"))) == "weight is not finite"
