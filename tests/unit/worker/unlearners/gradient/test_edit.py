"""The runner of edits: what it changes, what it refuses, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.edit import Statistics, run_edit
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.records import Side, Sides
from worker.unlearners.gradient.runner import MethodBrokeDown
from worker.unlearners.gradient.statistics import mean_gradient

SIDES: Sides = {Side.FORGET: blobs(20, seed=1), Side.RETAIN: blobs(60, seed=2)}


def nothing(net: nn.Module) -> None:
    pass


@dataclass
class Shift:
    """Adds ``by`` to one weight tensor; ``during`` does something to the net among the statistics."""

    by: float = 0.5
    name: str = "4.bias"
    statistic: float = 1.0
    during: Callable[[nn.Module], None] = field(default=nothing)

    def statistics(self, net: nn.Module, sides: Sides) -> Statistics:
        """Look at the retained twice and at the forgotten once."""
        self.during(net)
        mean_gradient(net, CrossEntropy(), sides[Side.FORGET], chunk=7)
        for _ in range(2):
            mean_gradient(net, CrossEntropy(), sides[Side.RETAIN])
        return {"one": {self.name: torch.full((3,), self.statistic)}}

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Add."""
        for name, value in net.named_parameters():
            if name == self.name:
                value += self.by * statistics["one"][name]


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}


def test_what_it_did_is_said_and_records_are_counted_as_they_are_met() -> None:
    net = small_net()
    before = copied(net)
    edited = run_edit(net, Shift(), SIDES)
    assert changed(net, before) == {"4.bias"}
    assert edited.moved == pytest.approx(0.5 * 3**0.5)
    assert edited.share == 3 / sum(p.numel() for p in net.parameters())
    assert edited.num_records == {"forget": 20, "retain": 120}
    assert edited.to_json()["num_records"] == edited.num_records


def meddle(net: nn.Module) -> None:
    torch.rand(3)
    net.train()
    net.zero_grad()


def test_statistics_leave_gradients_random_state_and_mode_untouched_whatever_they_do() -> None:
    net = small_net().train()
    net[3].eval()  # somebody had frozen the dropout
    net(blobs(10).all_inputs).sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    modes, drawn = [m.training for m in net.modules()], torch.get_rng_state()
    run_edit(net, Shift(during=meddle), SIDES)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(map(torch.equal, gradients, (p.grad for p in net.parameters() if p.grad is not None)))


def absorb(net: nn.Module) -> None:
    net.train()
    net(blobs(10).all_inputs)  # BatchNorm takes the batch into its buffers


def test_statistics_that_change_the_net_are_a_fault_and_undone() -> None:
    net = small_net()
    before = copied(net)
    with pytest.raises(AssertionError, match="running_mean"):
        run_edit(net, Shift(during=absorb), SIDES)
    assert changed(net, before) == set()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Shift(by=float("inf")), r"^after the edit, 4\.bias is not finite$"),
        (Shift(statistic=float("nan"), by=0.0), r"^one of 4\.bias is not finite$"),
    ],
    ids=["weight", "statistic"],
)
def test_what_is_not_finite_is_refused_and_the_net_restored(edit: Shift, message: str) -> None:
    net = small_net()
    before = copied(net)
    with pytest.raises(MethodBrokeDown, match=message):
        run_edit(net, edit, SIDES)
    assert changed(net, before) == set()


class Halfway(Shift):
    """Fails after it has changed something."""

    def apply(self, net: nn.Module, statistics: Statistics) -> None:
        """Change, then fail."""
        super().apply(net, statistics)
        raise KeyError("gone")


def test_an_edit_that_fails_halfway_changes_nothing() -> None:
    net = small_net()
    before = copied(net)
    with pytest.raises(KeyError):
        run_edit(net, Halfway(), SIDES)
    assert changed(net, before) == set()
