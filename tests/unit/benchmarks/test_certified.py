"""The arithmetic of the certified rewind, against closed forms."""

import math
from statistics import NormalDist

import pytest
import torch

from benchmarks.certified import (
    largest_record_gradient,
    log10_distance,
    noise_multiplier,
    recipe_of,
    spectral_norm,
)
from worker.training.nets import mlp
from worker.training.optimizers import learning_rate


def test_the_figure_of_the_design_is_three_thousand_steps_at_a_rate_of_two_hundredths() -> None:
    found = log10_distance([0.02] * 3001, [5.0] * 3001, visits=[0], push=50.0)
    assert found == pytest.approx(3000 * math.log10(1.1), rel=1e-12)
    assert round(found) == 124


def test_the_recipe_takes_six_thousand_steps_whose_stretch_has_a_closed_form() -> None:
    recipe = recipe_of(0)
    steps = recipe.plan.num_steps
    rates = [learning_rate(recipe.optimizer, recipe.schedule, step=s, num_steps=steps) for s in range(steps)]
    assert (steps, rates[0]) == (6000, 0.03)
    push = 1 / rates[0]
    found = log10_distance(rates, [5.0] * steps, visits=[0], push=push)
    # The sum as the integral of log(1 + a u) with a = eta L; the visit itself is not stretched.
    a = 0.03 * 5
    integral = steps * ((1 + a) * math.log(1 + a) - a) / a / math.log(10)
    assert found == pytest.approx(integral - math.log10(1 + a) / 2, abs=1e-4)


def test_visits_add_up_and_each_is_stretched_by_the_steps_after_it_alone() -> None:
    rates, curves = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    expected = 7 * (0.1 * 1.4 * 1.9 * 2.6 + 0.3 * 2.6)
    assert log10_distance(rates, curves, visits=[0, 2], push=7.0) == pytest.approx(math.log10(expected))
    assert log10_distance(rates, curves, visits=[3], push=7.0) == pytest.approx(math.log10(2.8))


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (0.1, 1e-6), (8.0, 1e-5)])
def test_the_noise_spends_exactly_delta(epsilon: float, delta: float) -> None:
    sigma, normal = noise_multiplier(epsilon, delta), NormalDist()
    near, far = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
    assert normal.cdf(near) - math.exp(epsilon) * normal.cdf(far) == pytest.approx(delta, rel=1e-6)
    classical = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    assert epsilon > 1 or sigma < classical


def test_curvature_and_gradient_of_a_linear_net_at_zero_are_the_closed_forms() -> None:
    net = mlp(4, 3, hidden=[])
    for weight in net.parameters():
        torch.nn.init.zeros_(weight)
    inputs = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    with_bias = torch.cat([inputs, torch.ones(12, 1)], dim=1).double()
    # The softmax's own Hessian at equal shares has eigenvalues 0, 1/3 and 1/3.
    largest = float(torch.linalg.eigvalsh(with_bias.T @ with_bias)[-1]) / 3 / 8
    assert spectral_norm(net, inputs, labels, divisor=8) == pytest.approx(largest, rel=1e-2)
    error = math.sqrt((2 / 3) ** 2 + 2 * (1 / 3) ** 2)
    expected = error * float(with_bias.norm(dim=1).max())
    assert largest_record_gradient(net, inputs, labels) == pytest.approx(expected, rel=1e-5)
