"""Denoisers small enough for a test, images to train them on, and what a course makes of them."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from app.domain.methods import Descent, SfronSettings
from worker.generation.nets import Denoiser, dit, unet
from worker.generation.sampling import Noise
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.generators import prepare
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import Side, Sides, Stream, TensorRecords, seed_of

NUM_CLASSES, CLASS, SIZE = 3, 1, 8
KEPT = Noise(num_timesteps=50, betas="squaredcos_cap_v2").kept()
ADAM = Descent(name="adamw", learning_rate=1e-3, weight_decay=0.0)
SETTINGS = SfronSettings(
    cycles=3, batch_size=8, retain_steps=1, clip=1.0, lift=0.0, stops=False, erase_steps=0, repair_steps=1,
    floor_nats=0.01, forget=ADAM, retain=ADAM,
)  # fmt: skip


def small_unet(*, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Return a U-Net for images of 8 x 8."""
    torch.manual_seed(0)
    return unet(NUM_CLASSES, image_size=SIZE, widths=(8, 16)).to(dtype)


def small_dit(*, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Return a transformer for images of 8 x 8, moved off the zeros that its blocks begin with."""
    torch.manual_seed(0)
    net = dit(NUM_CLASSES, image_size=SIZE, patch_size=4, num_layers=2, num_heads=2, head_width=8)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return net.to(dtype)


def digits(*, dtype: torch.dtype = torch.float32) -> TensorRecords:
    """Return the first three digits at 8 x 8, in [-1, 1]."""
    found = load_digits(n_class=NUM_CLASSES)
    images = torch.tensor(found.images, dtype=dtype).unsqueeze(1) / 8 - 1
    return TensorRecords(images, torch.tensor(found.target))


def sides(*, most: int | None = None) -> Sides:
    """Return a class and the others, so many of each."""
    everybody = digits()
    chosen = {Side.FORGET: everybody.all_targets == CLASS, Side.RETAIN: everybody.all_targets != CLASS}
    return {
        side: TensorRecords(everybody.all_inputs[own][:most], everybody.all_targets[own][:most])
        for side, own in chosen.items()
    }


def course_of(net: nn.Module, own: Sides, settings: SfronSettings = SETTINGS, *, seed: int = 0) -> Course:
    """Return the course that forgets the class."""
    work = prepare(Task(net, own, NUM_CLASSES, seed), settings, kept_T=KEPT).work
    assert isinstance(work, Course)
    return work


def trained(net: nn.Module, *, steps: int, rate: float = 3e-3) -> nn.Module:
    """Return a copy that has learned to say the noise in all three digits."""
    net, records, loss = copy.deepcopy(net), digits(), NoisePrediction(KEPT)
    stream = Stream(records, batch_size=32, seed=0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        torch.manual_seed(seed_of(0, step))
        indices = stream.indices(step)
        inputs = records.inputs(indices)
        optimizer.zero_grad()
        loss(net, inputs, loss.aims(records, indices, inputs)).mean().backward()
        optimizer.step()
    return net


def error(net: nn.Module, records: object) -> float:
    """Return the mean error on draws that are the same for every net."""
    assert isinstance(records, TensorRecords)
    loss, every = NoisePrediction(KEPT, seed=7), torch.arange(len(records))
    inputs = records.inputs(every)
    with torch.no_grad():
        losses_B: Tensor = loss(net.eval(), inputs, loss.aims(records, every, inputs))
    return float(losses_B.mean())
