"""PGU: its projectors, what projected gradients do to kept inputs, and the bounded loss."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from app.domain.methods import ProjectedGradientSettings
from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.layers import recorded
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods.projected_gradient import PROJECTED_GRADIENT, Unlikelihood
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course
from worker.unlearners.gradient.subspace import Layer, ProjectOff, given_to, kept_inputs, layers_of

GENERATOR = torch.Generator().manual_seed(0)


def images(num: int) -> TensorRecords:
    # Of three patterns only, so that patches do not span everything.
    patterns = torch.randn(3, 2, 5, 5, generator=GENERATOR, dtype=torch.float64)
    mixes = torch.randn(num, 3, generator=GENERATOR, dtype=torch.float64)
    return TensorRecords(torch.einsum("nk,kchw->nchw", mixes, patterns), torch.arange(num) % 3)


def convolutional(*, groups: int = 1, bias: bool = True) -> nn.Module:
    torch.manual_seed(1)
    convolution = nn.Conv2d(2, 4, 3, stride=2, groups=groups, bias=bias)
    return nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3, bias=bias)).double()


CASES = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), None),
    "convolutional": (convolutional, images(2)),
    "grouped": (lambda: convolutional(groups=2), images(2)),
    "without_bias": (lambda: convolutional(bias=False), images(2)),
}


def case(name: str) -> tuple[nn.Module, TensorRecords]:
    make, records = CASES[name]
    torch.manual_seed(3)
    few = TensorRecords(torch.randn(4, 6, dtype=torch.float64), torch.arange(4) % 3)
    return make(), few if records is None else records


def random_gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(parameter) for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("energy", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_projectors_are_symmetric_and_idempotent(name: str, energy: float) -> None:
    net, records = case(name)
    for kept_GDD in kept_inputs(net, records, energy=energy).values():
        torch.testing.assert_close(kept_GDD @ kept_GDD, kept_GDD, rtol=0, atol=1e-10)
        torch.testing.assert_close(kept_GDD.mT, kept_GDD, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_a_projected_gradient_leaves_every_kept_input_alone_and_is_not_nothing(name: str) -> None:
    net, records = case(name)
    layers = layers_of(net)
    gradients = random_gradients(net)
    ProjectOff(layers, kept_inputs(net, records, energy=1.0))(gradients)
    with recorded(net, layers) as calls:
        net(records.all_inputs)
    for key, layer in layers.items():
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        rows_GOD = gradients[f"{key}.weight"].reshape(groups, len(layer.weight) // groups, -1)
        if layer.bias is not None:
            rows_GOD = torch.cat([rows_GOD, gradients[f"{key}.bias"].reshape(groups, -1, 1)], dim=2)
        felt = rows_GOD @ given_to(layer, calls[key][0].inputs.double())
        assert float(felt.abs().max()) <= 1e-10
        assert float(rows_GOD.abs().max()) > 0.1


class Repeated(nn.Module):
    """Runs its one layer so many times, each on what it answered before."""

    def __init__(self, layer: nn.Module, *, times: int) -> None:
        super().__init__()
        self.layer, self.times, self.given = layer.double(), times, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last answer, and keep every input."""
        for _ in range(self.times):
            self.given.append(inputs.detach())
            inputs = self.layer(inputs).tanh()
        return inputs


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(16, 16), (3, 16)),
        (lambda: nn.Linear(16, 16, bias=False), (2, 2, 16)),
        (lambda: nn.Conv2d(4, 4, 3, padding=1), (1, 4, 2, 3)),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), (1, 4, 2, 2)),
    ],
)
def test_of_a_layer_that_runs_several_times_the_inputs_of_every_run_are_kept(
    make: Callable[[], Layer], shape: tuple[int, ...], times: int
) -> None:
    torch.manual_seed(4)
    net = Repeated(make(), times=times)
    records = TensorRecords(torch.randn(shape, dtype=torch.float64), torch.zeros(shape[0]).long())
    gradients = random_gradients(net)
    ProjectOff(layers_of(net), kept_inputs(net, records, energy=1.0))(gradients)
    net.given.clear()
    net(records.all_inputs)
    assert len(net.given) == times
    own = {name.removeprefix("layer."): gradient for name, gradient in gradients.items()}
    for inputs in net.given:
        # What the layer answers to an input does not change when its weights move along the gradient.
        felt = functional_call(net.layer, own, inputs)
        assert float(felt.abs().max()) <= 1e-10
    assert float(gradients["layer.weight"].abs().max()) > 0.1


class AskedByName(nn.Module):
    """Gives its one layer what it was given as a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4).double()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's answer."""
        answer: Tensor = self.layer(input=inputs)
        return answer


def test_inputs_that_a_layer_is_given_by_keyword_are_kept() -> None:
    torch.manual_seed(4)
    net = AskedByName()
    records = TensorRecords(torch.randn(6, 16, dtype=torch.float64), torch.zeros(6).long())
    gradients = random_gradients(net)
    ProjectOff(layers_of(net), kept_inputs(net, records, energy=1.0))(gradients)
    own = {name.removeprefix("layer."): gradient for name, gradient in gradients.items()}
    assert float(functional_call(net.layer, own, records.all_inputs).abs().max()) <= 1e-10
    assert float(gradients["layer.weight"].abs().max()) > 0.1


def test_a_weight_that_two_layers_share_does_not_move() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    net[2].weight = net[0].weight
    records = TensorRecords(torch.randn(3, 6, dtype=torch.float64), torch.arange(3))
    gradients = random_gradients(net)
    ProjectOff(layers_of(net), kept_inputs(net, records, energy=1.0))(gradients)
    moving = {name for name, gradient in gradients.items() if gradient.any()}
    assert moving == {"4.weight", "4.bias"}


def test_a_step_of_the_first_layer_keeps_what_the_net_says_of_the_kept_and_not_of_others() -> None:
    net, records = case("dense")
    gradients = random_gradients(net)
    ProjectOff(layers_of(net), kept_inputs(net, records, energy=1.0))(gradients)
    others = torch.randn(4, 6, dtype=torch.float64)
    before, of_others = net(records.all_inputs).detach(), net(others).detach()
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            net.get_parameter(name).add_(gradients[name])
    torch.testing.assert_close(net(records.all_inputs).detach(), before, rtol=0, atol=1e-10)
    assert float((net(others) - of_others).detach().abs().max()) > 0.1


def test_less_energy_keeps_fewer_directions() -> None:
    net, records = case("dense")
    ranks = [
        float(kept_inputs(net, records, energy=energy)["0"][0].trace()) for energy in (0.0, 0.3, 0.9, 1.0)
    ]
    assert ranks[0] == 0.0
    assert ranks == sorted(ranks)
    assert ranks[-1] == pytest.approx(4.0)  # four records
    assert ranks[1] == pytest.approx(1.0)


def test_what_no_layer_owns_does_not_move() -> None:
    net = small_net()
    gradients = random_gradients(net)
    ProjectOff(layers_of(net), kept_inputs(net, blobs(3), energy=1.0))(gradients)
    assert not gradients["1.weight"].any()
    assert not gradients["1.bias"].any()
    assert gradients["0.weight"].any()


def test_a_whole_course_moves_the_first_layer_off_the_kept_inputs_only() -> None:
    net, retain = small_net(), blobs(3, seed=2)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    sides = {Side.FORGET: blobs(20, seed=1), Side.RETAIN: retain}
    settings = ProjectedGradientSettings(energy=1.0, steps=5)
    work = PROJECTED_GRADIENT.prepare(Task(net, sides, num_classes=3, seed=0), settings).work
    assert isinstance(work, Course)
    run_course(begin(net, work), work, sides, seed=0)
    moved = {name: parameter.detach() - before[name] for name, parameter in net.named_parameters()}
    felt = retain.all_inputs @ moved["0.weight"].T + moved["0.bias"]
    assert float(felt.abs().max()) <= 1e-10
    assert float(moved["0.weight"].abs().max()) > 1e-3


def test_the_forget_loss_is_bounded_and_pulls_most_at_who_is_fitted_fully() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-60.0, 0.0, 0.0]], dtype=torch.float64)
    logits.requires_grad_()
    labels = torch.zeros(3, dtype=torch.int64)
    losses_B = Unlikelihood()(lambda inputs: inputs, logits, labels)
    shares = logits.detach().softmax(1)[:, 0]
    torch.testing.assert_close(losses_B[1], -(1 - shares[1]).log(), rtol=0, atol=1e-12)
    assert float(losses_B[2].detach()) == pytest.approx(0.0, abs=1e-12)
    (found,) = torch.autograd.grad(losses_B.sum(), logits)
    torch.testing.assert_close(found[:, 0], shares, rtol=0, atol=1e-12)
