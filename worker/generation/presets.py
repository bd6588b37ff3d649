"""Generators with their noise and the settings to forget a class by: small ones, and the published ones.

What is published of SFR-on (Huang et al. 2024, arXiv 2409.19732) is taken over: CIFAR-10 with a DDPM, Adam
at 1e-4 (AdamW without decay is Adam), alpha 10, clip 1, 50 to 150 steps; DiT, AdamW at 1e-4, alpha 1e-3, 500
steps. Everything else is our default. The published ones want an accelerator and are not measured here.

Where an optimizer scales its steps by the gradient's own size, as AdamW does, alpha hardly matters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from app.domain.methods import Descent, SfronSettings
from worker.generation.nets import Denoiser, dit, unet
from worker.generation.sampling import Noise

FLOOR = 0.01
"""Least error that a record is weighed by: with the most noise a good net is nearly right of every one."""


@dataclass(frozen=True)
class Preset:
    """A generator: ``net`` draws weights from torch's generator, ``shape`` is that of an image (C, H, W)."""

    net: Callable[[], Denoiser]
    shape: tuple[int, int, int]
    noise: Noise
    forgetting: SfronSettings
    sampling_steps: int


def _adam(learning_rate: float) -> Descent:
    return Descent(name="adamw", learning_rate=learning_rate, weight_decay=0.0)


# A count of cycles, on gradients clipped to a norm of 1; nothing to lift.
PUBLISHED = SfronSettings(
    forget_rate=10.0,
    floor_nats=FLOOR,
    cycles=50,
    clip=1.0,
    lift=0.0,
    stops=False,
    erase_steps=0,
    repair_steps=0,
    retain_clip=0.0,
    forget=_adam(1e-4),
    retain=_adam(1e-4),
)
# Gentler and in larger batches, until the label says nothing any more, 50 cycles at most (docs/adr/0027).
SMALL = replace(PUBLISHED, forget_rate=1.0, batch_size=64, stops=True, forget=_adam(4e-4), retain=_adam(6e-4))

PRESETS: dict[str, Preset] = {
    "unet_28": Preset(partial(unet, patch_size=2), (1, 28, 28), Noise(), SMALL, sampling_steps=50),
    "dit_28": Preset(dit, (1, 28, 28), Noise(), SMALL, sampling_steps=50),
    # The net of Ho et al. 2020 for CIFAR-10, with an embedding of the class.
    "ddpm_cifar10": Preset(
        partial(
            unet,
            image_size=32,
            channels=3,
            widths=(128, 256, 256, 256),
            attending=(1,),
            layers_per_block=2,
            groups=32,
            head_width=None,
            dropout=0.1,
        ),
        (3, 32, 32),
        Noise(),
        PUBLISHED,
        sampling_steps=1_000,
    ),
    # DiT-XL/2 for 256 x 256: its images are latents of an autoencoder, which is not part of it.
    "dit_xl_2": Preset(
        partial(
            dit,
            1_000,
            image_size=32,
            channels=4,
            patch_size=2,
            num_layers=28,
            num_heads=16,
            head_width=72,
            says_variance=True,
        ),
        (4, 32, 32),
        Noise(),
        replace(PUBLISHED, forget_rate=1e-3, cycles=500, batch_size=1),
        sampling_steps=250,
    ),
}
