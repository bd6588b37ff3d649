"""Digits at 28 x 28 as a generator takes them, and small generators trained on them.

What is sampled from, and what forgets, are the moving means of the weights (Ho et al. 2020).
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.gradient.images import drawn_digits
from worker.determinism import seed_generators
from worker.generation.presets import Preset
from worker.training.optimizers import learning_rate
from worker.training.recipe import AdamwPart, SchedulePart
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import Stream, TensorRecords, seed_of

NUM_TRAINING = 1_200
BATCH_SIZE, WARM_STEPS, CLIP, KEPT_MEAN = 64, 50, 1.0, 0.995
OPTIMIZER = AdamwPart(name="adamw", learning_rate=3e-3)
SCHEDULE = SchedulePart(name="cosine", final_share=0.05)
CPU = torch.device("cpu")


def real_digits(*, seed: int) -> tuple[TensorRecords, TensorRecords]:
    """Return training and unseen digits in [-1, 1], in an order of the seed."""
    images, labels = drawn_digits(seed=seed)
    inputs, num = images * 2 - 1, NUM_TRAINING
    return TensorRecords(inputs[:num], labels[:num]), TensorRecords(inputs[num:], labels[num:])


def trained_generator(preset: Preset, records: TensorRecords, *, num_steps: int, seed: int) -> nn.Module:
    """Return a generator of these records, in eval mode."""
    torch.manual_seed(seed)
    net = preset.net().to(memory_format=torch.channels_last)  # an eighth faster on this processor
    means = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(KEPT_MEAN))
    optimizer = torch.optim.AdamW(net.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=0.0)
    loss, stream = NoisePrediction(preset.noise.kept()), Stream(records, batch_size=BATCH_SIZE, seed=seed)
    for step in range(num_steps):
        seed_generators(seed_of(seed, "training", step), CPU)
        rate = learning_rate(OPTIMIZER, SCHEDULE, step=step, num_steps=num_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_STEPS)
        indices = stream.indices(step)
        inputs = records.inputs(indices)
        aims = loss.aims(records, indices, inputs)
        optimizer.zero_grad()
        loss(net, inputs, aims).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        means.update_parameters(net)
    made: nn.Module = means.module
    return made.to(memory_format=torch.contiguous_format).eval()
