"""Noise as a schedule, and samples: images that a denoiser makes of noise, given their labels.

Promises: everything is drawn on the CPU from the seed, so the same net, labels and seed give the same noise
on every device; the net's mode and torch's random state are as before.

Shape suffixes: N images, T timesteps, B images of a batch.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

BATCH_SIZE = 100


@dataclass(frozen=True)
class Noise:
    """How much noise there is at each of ``num_timesteps`` (Ho et al. 2020, arXiv 2006.11239).

    ``linear`` is theirs, from 0.0001 to 0.02; ``squaredcos_cap_v2`` is the cosine (arXiv 2102.09672).
    """

    num_timesteps: int = 1_000
    betas: Literal["linear", "squaredcos_cap_v2"] = "linear"

    def scheduler(self) -> Any:
        """Return a scheduler of ``diffusers`` that clips what it takes for the image to [-1, 1]."""
        return DDPMScheduler(num_train_timesteps=self.num_timesteps, beta_schedule=self.betas)

    def kept(self) -> Tensor:
        """Return the cumulative product of 1 - beta (T,): the share of the image's variance that is left."""
        kept_T: Tensor = self.scheduler().alphas_cumprod
        return kept_T


def sampled(
    net: nn.Module, noise: Noise, labels_N: Tensor, *, shape: tuple[int, ...], num_steps: int, seed: int
) -> Tensor:
    """Return images (N, *shape) in [-1, 1], on the CPU.

    Args:
        net: takes noised images, timesteps and labels.
        noise: what the net was trained with.
        labels_N: what each image shall show.
        shape: of one image, (C, H, W).
        num_steps: of the backward way, at most as many as there are timesteps.
        seed: of the noise at the beginning and at every step.
    """
    generator = torch.Generator().manual_seed(seed)
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            parts = [
                _batch(net, noise.scheduler(), part_B, shape, num_steps, generator)
                for part_B in labels_N.split(BATCH_SIZE)
            ]
    finally:
        for module, was_training in modes.items():
            module.training = was_training
    return torch.cat(parts)


def _batch(
    net: nn.Module,
    scheduler: Any,
    labels_B: Tensor,
    shape: tuple[int, ...],
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    device = next(net.parameters()).device
    scheduler.set_timesteps(num_steps)
    images = torch.randn(len(labels_B), *shape, generator=generator).to(device)
    for timestep in scheduler.timesteps:
        said = net(images, timestep.expand(len(labels_B)).to(device), labels_B.to(device))
        images = scheduler.step(said, timestep, images, generator=generator).prev_sample
    return images.clamp(-1, 1).cpu()
