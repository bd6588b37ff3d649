"""torch's optimizers without their marks for the compiler, whose import costs a process seconds of its CPU.

``torch.optim`` marks some methods as not to be compiled, and imports ``torch._dynamo`` at their first call to
say so. Nothing is compiled here. Promises: the same kernels in the same order, so the same bits; where a
version of torch has no marks, its optimizers are used as they are.
"""

from inspect import unwrap
from typing import TypeVar

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)

_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(kind: type[Kind]) -> type[Kind]:
    """Return the optimizer with the functions under the marks; a step records no gradients, as before."""
    plain = {name: unwrap(getattr(kind, name)) for name in _MARKED}
    plain["step"] = torch.no_grad()(unwrap(kind.step))
    return type(kind.__name__, (kind,), plain)
