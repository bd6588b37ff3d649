"""Teachers: nets of their own that never change and share no tensor with the net that is trained."""

import copy

import torch
from torch import nn

SPREAD = 0.02
"""Standard deviation of weights that no module knows how to draw, as for the embeddings of transformers."""


def frozen_copy(net: nn.Module) -> nn.Module:
    """Return a copy as the net is now, in eval mode, without gradients."""
    return _frozen(copy.deepcopy(net))


def newly_initialised(net: nn.Module, *, seed: int) -> nn.Module:
    """Return a net of the same shape that has learned nothing, in eval mode, without gradients.

    Modules draw their own weights (``reset_parameters``); what none of them draws is normal. Drawn on the
    CPU, so that every device gets the same; torch's generator is as before.
    """
    device = next(net.parameters()).device
    teacher = copy.deepcopy(net).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in teacher.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(std=SPREAD)
    return _frozen(teacher.to(device))


def _frozen(teacher: nn.Module) -> nn.Module:
    teacher.zero_grad(set_to_none=True)
    return teacher.eval().requires_grad_(False)
