"""A course under way as bytes: weights, buffers, what every optimizer remembers, and the counters.

Promises: what ``pack_course`` gives, ``restore_course`` takes back bit for bit. Never: pickle, and no RNG
state, because every draw is a function of the seed and the step.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from models_store.tensors import check_against, pack, unpack
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.diagnostics import Diagnostics
from worker.unlearners.gradient.records import Side
from worker.unlearners.gradient.runner import CourseState, begin

_NET, _OPTIMIZER = "net.", "optimizer."


def pack_course(state: CourseState) -> bytes:
    """Return a state as safetensors bytes."""
    tensors = {_NET + name: tensor.detach() for name, tensor in state.net.state_dict().items()}
    for name, optimizer in state.optimizers.items():
        for index, held in optimizer.state_dict()["state"].items():
            kept = {key: value for key, value in held.items() if isinstance(value, Tensor)}
            tensors |= {f"{_OPTIMIZER}{name}.{index}.{key}": value for key, value in kept.items()}
    note: dict[str, Any] = {
        "format": "expunge/course@2",
        "cycle": state.cycle,
        "drawn": {side.value: num for side, num in state.drawn.items()},
        "is_stopped": state.is_stopped,
        "num_endings": state.num_endings,
        "diagnostics": state.diagnostics.state(),
    }
    return pack(tensors, note=note)


def restore_course(data: bytes, net: nn.Module, course: Course) -> CourseState:
    """Return the state that ``pack_course`` wrote, in ``net``, which is changed in place.

    Raises:
        TensorFileRefused: the tensors do not fit the net.
    """
    tensors, note = unpack(data)
    stored: Any = note
    weights = {name.removeprefix(_NET): t for name, t in tensors.items() if name.startswith(_NET)}
    check_against(weights, expected=net.state_dict())
    net.load_state_dict(weights)
    state = begin(net, course)
    for name, optimizer in state.optimizers.items():
        _restore_memory(optimizer, tensors, prefix=f"{_OPTIMIZER}{name}.")
    state.cycle, state.is_stopped = stored["cycle"], stored["is_stopped"]
    state.num_endings = stored["num_endings"]
    state.drawn.update({Side(side): num for side, num in stored["drawn"].items()})
    state.diagnostics = Diagnostics.from_state(stored["diagnostics"])
    return state


def _restore_memory(optimizer: Optimizer, tensors: Mapping[str, Tensor], *, prefix: str) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split(".", 1)
            entries.setdefault(int(index), {})[key] = tensor
    stated = optimizer.state_dict()
    stated["state"] = entries
    optimizer.load_state_dict(stated)
