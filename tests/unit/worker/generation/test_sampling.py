"""The backward way on a net with a closed form, and what a seed decides."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.generators import small_unet
from worker.generation.sampling import BATCH_SIZE, Noise, sampled

NOISE = Noise(num_timesteps=20)
LABELS = torch.tensor([0, 2, 1])


class KnowsAll(nn.Module):
    """Says exactly the noise in an image whose truth is a plain field, of a value that its label names."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([-0.5, 0.0, 0.8]))

    def forward(self, noised: Tensor, timesteps_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return (x_t - sqrt(kept) x) / sqrt(1 - kept)."""
        kept = NOISE.kept()[timesteps_B].reshape(-1, 1, 1, 1)
        truth = self.value[labels_B].reshape(-1, 1, 1, 1)
        return (noised - kept.sqrt() * truth) / (1 - kept).sqrt()


def test_kept_is_the_product_of_what_each_step_leaves() -> None:
    betas = torch.linspace(1e-4, 0.02, 1_000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, 0).float()
    torch.testing.assert_close(Noise().kept(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("num_steps", [5, 20])
def test_a_net_that_knows_the_truth_is_led_to_it(num_steps: int) -> None:
    images = sampled(KnowsAll(), NOISE, LABELS, shape=(1, 4, 4), num_steps=num_steps, seed=0)
    expected = torch.tensor([-0.5, 0.8, 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


def test_the_seed_decides_the_images_and_nothing_else_does() -> None:
    net = small_unet().train()
    net.net.conv_in.eval()
    modes, drawn = [module.training for module in net.modules()], torch.get_rng_state()
    first, again, other = (
        sampled(net, NOISE, LABELS, shape=(1, 8, 8), num_steps=3, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 1, 8, 8)
    assert float(first.abs().max()) <= 1.0
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)


def test_images_of_one_batch_and_of_the_next_are_all_different() -> None:
    labels = torch.zeros(BATCH_SIZE + 2, dtype=torch.int64)
    images = sampled(KnowsNothing(), NOISE, labels, shape=(1, 2, 2), num_steps=2, seed=0)
    assert len({tuple(image.flatten().tolist()) for image in images}) == BATCH_SIZE + 2


class KnowsNothing(nn.Module):
    """Says that there is no noise."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, noised: Tensor, timesteps_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return zeros."""
        return self.nothing.expand_as(noised)
