"""Squares from the layers' formulas against gradients of single records, and nets that they do not fit."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.gradient import small_net
from worker.training.nets import lenet5, small_resnet
from worker.unlearners.gradient.layers import are_layers_enough, patches
from worker.unlearners.gradient.losses import CrossEntropy, Forward
from worker.unlearners.gradient.records import Records, TensorRecords
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


class Words(nn.Module):
    """Takes rows of whole numbers as words, and says which it met."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.answer = nn.Embedding(6, 5, padding_idx=0), nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the answer to the mean word."""
        answers: Tensor = self.answer(self.embed(rows.long()).tanh().mean(1))
        return answers


WORDS = torch.tensor([[1, 2, 1, 0], [3, 3, 3, 3], [5, 4, 1, 2], [0, 0, 0, 1], [2, 5, 2, 5]]).double()

FITTING = {
    "words": (Words, WORDS),
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
    torch.manual_seed(0)
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


class Asked(nn.Module):
    """Is asked with a condition beside its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.of_condition = nn.Linear(4, 4), nn.Embedding(3, 4)

    def forward(self, inputs: Tensor, conditions_B: Tensor) -> Tensor:
        """Return its answer under a condition."""
        answer: Tensor = self.layer(inputs).tanh() * self.of_condition(conditions_B)
        return answer


class Off(NamedTuple):
    """Two tensors a record: what it is asked under, and what it should say."""

    conditions: Tensor
    said: Tensor


class SquaredError:
    """How far an answer is off, under the label as its condition."""

    needs_targets = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Off:
        """Return labels and the inputs, backwards."""
        return Off(records.targets(indices_B), inputs.flip(1))

    def __call__(self, forward: Forward, inputs: Tensor, aims: Off) -> Tensor:
        """Return the loss of each record (B,)."""
        return (forward(inputs, aims.conditions) - aims.said).square().sum(1)


def test_a_net_may_be_asked_with_conditions_and_compared_with_several_tensors() -> None:
    torch.manual_seed(0)
    net, records, loss = Asked().double(), TensorRecords(ROWS, LABELS), SquaredError()
    expected = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    for index in torch.arange(NUM).split(1):
        inputs = records.inputs(index)
        value = loss(net, inputs, loss.aims(records, index, inputs)).sum()
        for name, own in zip(expected, torch.autograd.grad(value, list(net.parameters())), strict=True):
            expected[name] += own**2 / NUM
    aims = loss.aims(records, torch.arange(NUM), ROWS)
    assert are_layers_enough(net, ROWS[:2], LABELS[:2])
    by_records = squares_by_records(net, loss, ROWS, aims)
    for chunk in (NUM, 2):
        found = mean_squares(net, loss, records, chunk=chunk)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)
            torch.testing.assert_close(by_records[name] / NUM, value, rtol=0, atol=1e-10)


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
