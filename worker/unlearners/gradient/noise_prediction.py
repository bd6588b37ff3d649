"""The loss of a class-conditional denoiser: how far it is off when it says what noise an image was given.

    x_t = sqrt(kept_t) x + sqrt(1 - kept_t) e        l(theta; x, label) = mean (e - e_theta(x_t, t, label))^2

the simplified objective of Ho et al. 2020 (arXiv 2006.11239), with their cumulative product of 1 - beta_t
called ``kept`` here. The mean is over the numbers of one image, so that a loss is of the order of 1 for a net
that says nothing, whatever the size of images.

Every record has a timestep and a noise of its own. Promises: they are functions of a seed; drawn on the CPU,
so that every device gets the same.

Shape suffixes: B records of a batch, T timesteps, * the shape of one image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worker.unlearners.gradient.losses import Forward, widened
from worker.unlearners.gradient.records import Records, seed_of


class Noised(NamedTuple):
    """What a batch is noised with: noise (B, *), timesteps (B,), and the labels (B,) it is asked under."""

    noise: Tensor
    timesteps: Tensor
    labels: Tensor


@dataclass(frozen=True)
class NoisePrediction:
    """The error of each record's predicted noise, at a timestep drawn uniformly.

    ``kept_T`` falls over the timesteps. Without a ``seed`` a record is noised anew each time it is met, from
    torch's generator, which the runner seeds before every step. With one, a record's draw depends on the seed
    and its index alone: for statistics, and for comparing two nets on the same draws.
    """

    kept_T: Tensor
    seed: int | None = None
    needs_targets: bool = True

    def aims(self, records: Records, indices_B: Tensor, inputs: Tensor) -> Noised:
        """Return the draws of these records, and their labels."""
        noise, timesteps_B = self._drawn(indices_B, shape=inputs.shape[1:], dtype=inputs.dtype)
        return Noised(noise.to(inputs.device), timesteps_B.to(inputs.device), records.targets(indices_B))

    def __call__(self, forward: Forward, inputs: Tensor, aims: Noised) -> Tensor:
        """Return the error of each record (B,); ``forward`` takes noised images, timesteps and labels."""
        kept_B = self.kept_T.to(inputs).index_select(0, aims.timesteps)
        kept = kept_B.reshape(-1, *[1] * (inputs.dim() - 1))
        noised = kept.sqrt() * inputs + (1 - kept).sqrt() * aims.noise
        said = widened(forward(noised, aims.timesteps, aims.labels))
        return (said - aims.noise).square().flatten(1).mean(1)

    def _drawn(self, indices_B: Tensor, *, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.seed is None:
            return _draw(len(indices_B), len(self.kept_T), shape, dtype, torch.default_generator)
        generators = (
            torch.Generator().manual_seed(seed_of(self.seed, "noise", index)) for index in indices_B.tolist()
        )
        each = [_draw(1, len(self.kept_T), shape, dtype, generator) for generator in generators]
        return torch.cat([noise for noise, _ in each]), torch.cat([timestep for _, timestep in each])


def _draw(
    num: int, num_timesteps: int, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    timesteps_B = torch.randint(num_timesteps, (num,), generator=generator)
    return torch.randn(num, *shape, generator=generator, dtype=dtype), timesteps_B
