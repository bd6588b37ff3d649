"""Fisher noise: the information it is scaled by, its spread, and its seed."""

import pytest
import torch
from torch import Tensor, nn

from app.domain.methods import FisherNoiseSettings
from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.methods.fisher_noise import AddNoise, deviation, fisher_diagonal
from worker.unlearners.gradient.records import Side

RETAIN = blobs(30, seed=2)


def noised(*, seed: int = 0, strength: float = 0.01) -> list[Tensor]:
    net = small_net()
    run_edit(net, AddNoise(FisherNoiseSettings(strength=strength), 3, seed), {Side.RETAIN: RETAIN})
    return [parameter.detach() for parameter in net.parameters()]


def test_the_information_of_a_softmax_layer_is_its_closed_form() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    found = fisher_diagonal(net, RETAIN, num_classes=3)
    shares = net(RETAIN.all_inputs).softmax(1).detach()
    spread = shares * (1 - shares)  # the variance of each label's indicator
    torch.testing.assert_close(found["bias"], spread.mean(0), rtol=0, atol=1e-12)
    expected = spread.T @ RETAIN.all_inputs**2 / len(RETAIN)
    torch.testing.assert_close(found["weight"], expected, rtol=0, atol=1e-12)


def test_sixteen_times_the_information_halves_the_noise_and_none_at_all_is_bounded() -> None:
    found = deviation(torch.tensor([1.0, 16.0, 0.0]), strength=0.01, most=0.1)
    torch.testing.assert_close(found, torch.tensor([0.01, 0.005, 0.1]))


def test_noise_has_the_stated_spread_and_no_drift() -> None:
    net = nn.Linear(400, 100, bias=False).double()
    before = net.weight.detach().clone()
    fisher = torch.full_like(before, 16.0)
    with torch.no_grad():
        AddNoise(FisherNoiseSettings(strength=0.02), 100, seed=0).apply(net, {"retain": {"weight": fisher}})
    added = (net.weight.detach() - before) / 0.01
    assert float(added.mean()) == pytest.approx(0.0, abs=0.02)  # four deviations of the mean of 40 000
    assert float(added.std()) == pytest.approx(1.0, abs=0.015)


def test_the_seed_alone_decides_the_noise() -> None:
    first = noised()
    torch.rand(7)
    assert all(map(torch.equal, first, noised()))
    assert not any(map(torch.equal, first, noised(seed=1)))
