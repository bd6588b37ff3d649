"""SFR-on on a net that fits the digits fully: our defaults forget a class, the released settings nothing."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from app.domain.methods import PRESETS, Settings, SfronSettings
from worker.training.nets import mlp
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, Sides, Stream, TensorRecords
from worker.unlearners.gradient.runner import CourseState, begin, run_course

CLASS, NUM_TRAINING = 3, 1_200


@cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(found.data, dtype=torch.float32).div(16)
    return inputs[order], torch.tensor(found.target)[order]


def sides() -> Sides:
    """Return the class's training records, the others', and unseen records of the others."""
    inputs, labels = digits()
    of_class, is_seen = labels == CLASS, torch.arange(len(labels)) < NUM_TRAINING
    chosen = {
        Side.FORGET: of_class & is_seen,
        Side.RETAIN: ~of_class & is_seen,
        Side.HELD_OUT: ~of_class & ~is_seen,
    }
    return {side: TensorRecords(inputs[own], labels[own]) for side, own in chosen.items()}


def trained(chosen: Tensor) -> nn.Module:
    """Return a net that fits these records fully."""
    torch.manual_seed(1)
    net, (inputs, labels) = mlp(64, 10), digits()
    records = TensorRecords(inputs[chosen], labels[chosen])
    stream = Stream(records, batch_size=32, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(1_500):
        indices = stream.indices(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(records.inputs(indices)), records.targets(indices)).backward()
        optimizer.step()
    return net


def run(net: nn.Module, settings: Settings) -> CourseState:
    own = sides()
    work = METHODS["sfron"].prepare(Task(net, own, num_classes=10, seed=0), settings).work
    assert isinstance(work, Course)
    return run_course(begin(net, work), work, own, seed=0)


def accuracy(net: nn.Module, side: Side) -> float:
    records = sides()[side]
    indices = torch.arange(len(records))
    with torch.no_grad():
        found = net(records.inputs(indices)).argmax(1)
    return float((found == records.targets(indices)).double().mean())


def test_the_shipped_defaults_forget_it_as_training_without_it_would() -> None:
    everybody = torch.arange(NUM_TRAINING)
    net = trained(everybody)
    assert accuracy(net, Side.FORGET) == 1.0
    anew = trained(everybody[digits()[1][:NUM_TRAINING] != CLASS])
    state = run(net, SfronSettings())
    assert state.is_stopped
    assert accuracy(net, Side.FORGET) <= 0.01
    assert accuracy(net, Side.RETAIN) >= 0.985
    assert accuracy(net, Side.HELD_OUT) >= accuracy(anew, Side.HELD_OUT) - 0.02


def test_the_released_settings_forget_nothing_of_it_and_the_diagnostics_say_so() -> None:
    net = trained(torch.arange(NUM_TRAINING))
    state = run(net, PRESETS["sfron"]["released"])
    assert accuracy(net, Side.FORGET) == 1.0
    assert any("nothing to follow" in warning for warning in state.diagnostics.warnings())
