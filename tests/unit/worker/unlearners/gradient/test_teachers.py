"""A teacher that has learned nothing: drawn anew whole, the same for the same seed, on its own."""

import torch
from torch import Tensor, nn

from tests.support.gradient import blobs, small_net
from worker.training.nets import small_resnet
from worker.unlearners.gradient.teachers import frozen_copy, newly_initialised


class Embedded(nn.Module):
    """A net with a weight that no module knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((4,), 7.0))
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, 3)."""
        logits: Tensor = self.head(inputs + self.place)
        return logits


def trained(net: nn.Module) -> nn.Module:
    """Return the net with every number moved."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(3)
    return net


def test_nothing_of_the_original_is_left_in_a_new_teacher() -> None:
    for net in (trained(small_net()), trained(small_resnet()), trained(Embedded())):
        teacher = newly_initialised(net, seed=0).state_dict()
        assert not any((teacher[name] == tensor).any() for name, tensor in net.state_dict().items())


def test_a_module_draws_its_weights_as_it_does_when_it_is_made() -> None:
    torch.manual_seed(5)
    made = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    teacher = newly_initialised(trained(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))), seed=5)
    assert all(map(torch.equal, teacher.parameters(), made.parameters()))


def test_the_seed_decides_and_the_random_state_is_as_before() -> None:
    net, drawn = small_net(), torch.get_rng_state()
    first, second, other = (newly_initialised(net, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not any(map(torch.equal, first[0].parameters(), other[0].parameters()))  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_copy_answers_as_the_original_and_takes_no_gradient() -> None:
    net, inputs = small_net(), blobs(5).all_inputs
    net(inputs).sum().backward()
    teacher = frozen_copy(net)
    assert torch.equal(teacher(inputs), net.eval()(inputs))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
