"""A class of the digits, nets that fit the rest of it fully, and what a method makes of them."""

import copy
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from app.domain.methods import Settings
from worker.training.nets import mlp
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, Sides, Stream, TensorRecords
from worker.unlearners.gradient.runner import CourseState, begin, run_course

CLASS, NUM_TRAINING = 3, 1_200


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return all inputs (N, 64) and labels (N,), shuffled."""
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


@cache
def original() -> nn.Module:
    """Return the net that has met everybody; it is not to be changed."""
    return trained(torch.arange(NUM_TRAINING))


@cache
def retrained() -> nn.Module:
    """Return the net that never met the class."""
    everybody = torch.arange(NUM_TRAINING)
    return trained(everybody[digits()[1][:NUM_TRAINING] != CLASS])


def run(name: str, settings: Settings) -> tuple[nn.Module, CourseState]:
    """Return what a method makes of the original, and its course at the end."""
    own, net = sides(), copy.deepcopy(original())
    made = METHODS[name].prepare(Task(net, own, num_classes=10, seed=0), settings)
    assert isinstance(made.work, Course)
    state = run_course(begin(made.net, made.work), made.work, own, seed=0)
    return made.finish(made.net), state


def accuracy(net: nn.Module, side: Side) -> float:
    """Return the share of a side's records that the net answers with their label."""
    records = sides()[side]
    indices = torch.arange(len(records))
    with torch.no_grad():
        found = net(records.inputs(indices)).argmax(1)
    return float((found == records.targets(indices)).double().mean())
