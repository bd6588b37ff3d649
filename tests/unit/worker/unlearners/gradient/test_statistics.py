"""Statistics over single records against a loop over them, and what they leave alone."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient import statistics
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.records import TensorRecords
from worker.unlearners.gradient.statistics import (
    Weights,
    batch_squares,
    mean_gradient,
    mean_squares,
    record_gradients,
)

RECORDS = blobs(30)
LOSS = CrossEntropy()


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)]
    return nn.Sequential(*layers).double()


def images() -> TensorRecords:
    return TensorRecords(RECORDS.all_inputs.reshape(-1, 1, 2, 2), RECORDS.all_targets)


def one_by_one(net: nn.Module, records: TensorRecords) -> list[dict[str, Tensor]]:
    """Return each record's gradient, the slow way."""
    net.eval()
    found = []
    for index in range(len(records)):
        net.zero_grad()
        chosen = slice(index, index + 1)
        logits = net(records.all_inputs[chosen])
        nn.functional.cross_entropy(logits, records.all_targets[chosen]).backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    net.zero_grad()
    return found


CASES = [(small_net, RECORDS), (convolutional, images())]


@pytest.mark.parametrize(("make", "records"), CASES, ids=["dense", "convolutional"])
def test_squares_and_means_are_those_of_a_loop_over_the_records(make: object, records: TensorRecords) -> None:
    assert callable(make)
    net: nn.Module = make()
    each = one_by_one(net, records)
    squares, mean = mean_squares(net, LOSS, records, chunk=7), mean_gradient(net, LOSS, records, chunk=7)
    for name, _ in net.named_parameters():
        stacked = torch.stack([gradients[name] for gradients in each])
        torch.testing.assert_close(squares[name], (stacked**2).mean(0), rtol=0, atol=1e-10)
        torch.testing.assert_close(mean[name], stacked.mean(0), rtol=0, atol=1e-10)


def test_chunks_and_order_change_nothing() -> None:
    net = small_net()
    shuffled = torch.randperm(len(RECORDS), generator=torch.Generator().manual_seed(4))
    other = TensorRecords(RECORDS.all_inputs[shuffled], RECORDS.all_targets[shuffled])
    first, second = mean_squares(net, LOSS, RECORDS, chunk=30), mean_squares(net, LOSS, other, chunk=4)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-12)


def test_the_square_of_a_batch_is_another_number() -> None:
    net = small_net()
    squares = mean_squares(net, LOSS, RECORDS)["0.weight"]
    of_the_mean = mean_gradient(net, LOSS, RECORDS)["0.weight"] ** 2
    assert float((squares - of_the_mean).sum()) > 0.5 * float(squares.sum())


def test_weights_buffers_gradients_random_state_and_mode_are_untouched() -> None:
    net = small_net().train()
    net[3].eval()  # somebody had frozen the dropout
    nn.functional.cross_entropy(net(RECORDS.all_inputs), RECORDS.all_targets).backward()
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    modes, drawn = [m.training for m in net.modules()], torch.get_rng_state()
    mean_squares(net, LOSS, RECORDS)
    mean_gradient(net, LOSS, RECORDS)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in net.state_dict().items())
    assert all(map(torch.equal, gradients, (p.grad for p in net.parameters() if p.grad is not None)))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)


class TwoHeads(nn.Module):
    """Answers with one of two heads; the other is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the used head's logits."""
        answer: Tensor = self.used(inputs)
        return answer


@pytest.mark.parametrize("measure", [mean_gradient, mean_squares, partial(batch_squares, batch=8)])
def test_a_weight_that_the_answer_does_not_depend_on_has_zeros(measure: Callable[..., Weights]) -> None:
    found = measure(TwoHeads(), LOSS, RECORDS)
    assert not found["idle.weight"].any()
    assert found["used.weight"].all()


def test_gradients_of_single_records_have_their_own_dimension() -> None:
    net = small_net().eval()
    found = record_gradients(net, LOSS, RECORDS.all_inputs[:5], RECORDS.all_targets[:5])
    assert {name: value.shape for name, value in found.items()} == {
        name: (5, *p.shape) for name, p in net.named_parameters()
    }


def test_a_large_net_holds_fewer_gradients_at_once_and_gives_the_same_squares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, aims = RECORDS.all_inputs, RECORDS.all_targets
    held: list[int] = []

    def counted(*given: object) -> Weights:
        found = record_gradients(*given)  # type: ignore[arg-type]
        held.append(len(next(iter(found.values()))))
        return found

    monkeypatch.setattr(statistics, "record_gradients", counted)
    net = small_net().eval()
    whole = statistics.squares_by_records(net, LOSS, inputs, aims)
    num_weights = sum(parameter.numel() for parameter in net.parameters())
    monkeypatch.setattr(statistics, "MOST_NUMBERS", 4 * num_weights)
    parts = statistics.squares_by_records(net, LOSS, inputs, aims)
    assert held == [30, 4, 4, 4, 4, 4, 4, 4, 2]
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-12)
