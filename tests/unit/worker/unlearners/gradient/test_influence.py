"""Influence: retraining itself where the loss is quadratic, and close to it where it is convex."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from app.domain.methods import InfluenceFirstSettings, InfluenceSecondSettings
from tests.support.gradient import blobs
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.influence import NotConvex, solve, solve_damped
from worker.unlearners.gradient.losses import CrossEntropy, Forward
from worker.unlearners.gradient.methods.influence_first import FollowGradients
from worker.unlearners.gradient.methods.influence_second import NewtonStep
from worker.unlearners.gradient.records import Records, Side, TensorRecords

RIDGE = 3.0  # of the sum of losses: it does not change with the number of records
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(40, 5, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randn(40, generator=GENERATOR, dtype=torch.float64)


@dataclass(frozen=True)
class Squared:
    """(x . w - y)^2 / 2."""

    needs_targets: bool = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Tensor:
        """Return the targets (B,)."""
        return records.targets(indices_B)

    def __call__(self, forward: Forward, inputs: Tensor, aims: Tensor) -> Tensor:
        """Return the loss of each record (B,)."""
        return (forward(inputs).squeeze(-1) - aims) ** 2 / 2


def ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the weights that minimise the sum of losses and RIDGE |w|^2 / 2."""
    eye = torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(inputs.T @ inputs + RIDGE * eye, inputs.T @ targets)


def newton(num: int, *, damping: float = RIDGE) -> InfluenceSecondSettings:
    return InfluenceSecondSettings(damping=damping / num, steps=200, tolerance=1e-14)


def of_weights(weights: Tensor) -> nn.Linear:
    net = nn.Linear(len(weights), 1, bias=False).double()
    net.weight.data.copy_(weights)
    return net


SIDES = {
    Side.FORGET: TensorRecords(INPUTS[:10], TARGETS[:10]),
    Side.RETAIN: TensorRecords(INPUTS[10:], TARGETS[10:]),
}


def test_of_ridge_regression_erasing_is_retraining() -> None:
    net = of_weights(ridge(INPUTS, TARGETS))
    run_edit(net, NewtonStep(newton(30), Squared()), SIDES)
    torch.testing.assert_close(net.weight.detach()[0], ridge(INPUTS[10:], TARGETS[10:]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("changed", ["labels", "features"])
def test_of_ridge_regression_correcting_is_retraining_on_the_corrected_records(changed: str) -> None:
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    if changed == "labels":
        targets[:10] += 2.0
    else:
        inputs[:10, 1] = 0.0
    net = of_weights(ridge(INPUTS, TARGETS))
    corrected = TensorRecords(inputs[:10], targets[:10])
    sides = {**SIDES, Side.RETAIN: TensorRecords(inputs, targets)}
    run_edit(net, NewtonStep(newton(40), Squared(), corrected), sides)
    torch.testing.assert_close(net.weight.detach()[0], ridge(inputs, targets), rtol=0, atol=1e-10)


def logistic(records: TensorRecords) -> nn.Linear:
    """Return the softmax regression that minimises the sum of losses and RIDGE |theta|^2 / 2, by Newton."""

    def objective(theta_P: Tensor) -> Tensor:
        logits = records.all_inputs @ theta_P[:12].reshape(3, 4).T + theta_P[12:]
        losses_B = nn.functional.cross_entropy(logits, records.all_targets, reduction="sum")
        return losses_B + RIDGE / 2 * theta_P @ theta_P

    theta_P = torch.zeros(15, dtype=torch.float64)
    for _ in range(12):
        slope_P = torch.autograd.functional.jacobian(objective, theta_P)
        theta_P = theta_P - torch.linalg.solve(torch.autograd.functional.hessian(objective, theta_P), slope_P)
    assert float(slope_P.norm()) < 1e-10
    net = nn.Linear(4, 3).double()
    net.weight.data.copy_(theta_P[:12].reshape(3, 4))
    net.bias.data.copy_(theta_P[12:])
    return net


def error_after_erasing(num_copies: int) -> float:
    """Of a training with eight copies of twelve records, erase some; return the distance to retraining."""
    few, others = blobs(12, seed=4), blobs(600, seed=3)

    def training(copies: int) -> TensorRecords:
        inputs, labels = few.all_inputs.repeat(copies, 1), few.all_targets.repeat(copies)
        return TensorRecords(torch.cat([others.all_inputs, inputs]), torch.cat([others.all_targets, labels]))

    net, retain = logistic(training(8)), training(8 - num_copies)
    gone = TensorRecords(few.all_inputs.repeat(num_copies, 1), few.all_targets.repeat(num_copies))
    sides = {Side.FORGET: gone, Side.RETAIN: retain}
    run_edit(net, NewtonStep(newton(len(retain)), CrossEntropy()), sides)
    offs = zip(net.parameters(), logistic(retain).parameters(), strict=True)
    return float(torch.cat([(a - b).detach().flatten() for a, b in offs]).norm())


def test_of_logistic_regression_half_the_erased_leave_a_quarter_of_the_error() -> None:
    errors = [error_after_erasing(num_copies) for num_copies in (4, 2, 1)]
    for larger, smaller in pairwise(errors):
        assert 3.5 < larger / smaller < 4.6, errors


def test_the_first_order_is_the_sum_of_gradients_that_change() -> None:
    start = ridge(INPUTS, TARGETS)
    residuals = INPUTS[:10] @ start - TARGETS[:10]
    gone = INPUTS[:10].T @ residuals
    come = INPUTS[:10].T @ (residuals - 2.0)
    corrected = TensorRecords(INPUTS[:10], TARGETS[:10] + 2.0)
    for given, expected in ((None, gone), (corrected, gone - come)):
        net = of_weights(start)
        run_edit(net, FollowGradients(InfluenceFirstSettings(rate=0.3), Squared(), given), SIDES)
        torch.testing.assert_close(net.weight.detach()[0], start + 0.3 * expected, rtol=0, atol=1e-12)


def test_curvature_that_is_not_positive_is_damped_until_it_is() -> None:
    matrix = torch.diag(torch.tensor([2.0, -0.5], dtype=torch.float64))
    aim = torch.tensor([1.0, 1.0], dtype=torch.float64)
    with pytest.raises(NotConvex):
        solve(lambda x: matrix @ x, torch.tensor([0.0, 1.0], dtype=torch.float64), tolerance=0.0, steps=9)
    eye = torch.eye(2, dtype=torch.float64)
    found = solve_damped(
        lambda damping: lambda x: (matrix + damping * eye) @ x, aim, damping=0.1, tolerance=1e-13, steps=9
    )
    torch.testing.assert_close(found, aim / torch.tensor([3.0, 0.5], dtype=torch.float64))
