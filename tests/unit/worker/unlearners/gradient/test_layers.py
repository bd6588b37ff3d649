"""Squares from the layers' formulas against gradients of single records, and nets that they do not fit."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.gradient import small_net
from worker.training.nets import lenet5, small_resnet
from worker.unlearners.gradient.layers import are_layers_enough, patches
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.records import TensorRecords
from worker.unlearners.gradient.statistics import mean_squares, squares_by_layers, squares_by_records

LOSS = CrossEntropy()
NUM = 5
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(NUM, 4, 8, 8, generator=GENERATOR, dtype=torch.float64)
ROWS = torch.randn(NUM, 4, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1])


def convolution(**arguments: object) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, **arguments), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


class Tokens(nn.Module):
    """Takes the pixels of an image as a row of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.answer = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean answer of all tokens."""
        answers: Tensor = self.answer(self.embed(images.permute(0, 2, 3, 1)).tanh())
        return answers.mean((1, 2))


def hasty() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


FITTING = {
    "dense": (small_net, ROWS),
    "in_place": (hasty, ROWS),
    "tokens": (Tokens, IMAGES),
    "lenet": (lambda: lenet5(in_channels=4, image_size=8, batch_norm=True), IMAGES),
    "residual": (lambda: small_resnet(in_channels=4, norm="group"), IMAGES),
    "strided": (lambda: convolution(stride=(2, 1), padding=(1, 0), dilation=(1, 2)), IMAGES),
    "grouped": (lambda: convolution(groups=2, bias=False), IMAGES),
    "same": (lambda: convolution(padding="same", padding_mode="circular"), IMAGES),
}


@pytest.mark.parametrize("name", FITTING)
def test_squares_by_layers_are_those_of_single_records(name: str) -> None:
    make, inputs = FITTING[name]
    net = make().double().eval()
    assert are_layers_enough(net, inputs[:2])
    found = squares_by_layers(net, LOSS, inputs, LABELS)
    expected = squares_by_records(net, LOSS, inputs, LABELS)
    assert found.keys() == expected.keys() == dict(net.named_parameters()).keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-10)


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return its answer to its answer."""
        answer: Tensor = self.layer(self.layer(inputs).tanh())
        return answer


class Tied(Twice):
    """Uses a layer's weight outside its call."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's answer, and its weight transposed on it."""
        return F.linear(self.layer(inputs).tanh(), self.layer.weight.T)


class Scaled(Twice):
    """Has a weight of its own, of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's answer, scaled."""
        answer: Tensor = self.layer(inputs) * self.scale
        return answer


@pytest.mark.parametrize("make", [Twice, Tied, Scaled])
def test_a_net_that_the_formulas_do_not_fit_is_measured_record_by_record(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = make().double().eval()
    assert not are_layers_enough(net, ROWS[:2])
    found = mean_squares(net, LOSS, TensorRecords(ROWS, LABELS))
    expected = squares_by_records(net, LOSS, ROWS, LABELS)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value / NUM, rtol=0, atol=1e-12)


def test_frozen_weights_have_no_squares() -> None:
    net = small_net().eval()
    net[0].weight.requires_grad_(False)
    net[4].requires_grad_(False)
    found = mean_squares(net, LOSS, TensorRecords(ROWS, LABELS))
    assert found.keys() == {"0.bias", "1.weight", "1.bias"}


def test_no_hook_is_left_behind() -> None:
    net = small_net()
    mean_squares(net, LOSS, TensorRecords(ROWS, LABELS))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_convolution_is_a_product_with_its_patches() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1, bias=False).double()
    weight = layer.weight.unflatten(0, (2, -1)).flatten(2)
    product = weight @ patches(layer, IMAGES)
    torch.testing.assert_close(product.flatten(1, 2), layer(IMAGES).flatten(2), rtol=0, atol=1e-12)
