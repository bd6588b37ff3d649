"""Statistics over single records: mean gradient and mean squared gradient, by weight.

The squares are those of each record's own gradient. Squaring the mean of a batch is not a Fisher diagonal:
reshuffling the batches changes it by half.

Promises: weights, buffers, RNG and mode of the net are untouched; batch size and order change nothing but
the last bits. Squares come from the layers' own formulas where a trial shows that they hold for the net, and
from ``torch.func`` everywhere else.

Shape suffixes: B records of a chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.unlearners.gradient.layers import are_layers_enough, layer_squares
from worker.unlearners.gradient.losses import Aims, Loss, each_of
from worker.unlearners.gradient.moving import moving
from worker.unlearners.gradient.records import Records, chunks

Weights = dict[str, Tensor]
SquaresOf = Callable[[nn.Module, Loss, Tensor, Aims], Weights]
# Of 8 to 256, measured on LeNet-5: smaller chunks fit a cache, and larger ones call less often.
CHUNK_RECORDS, CHUNK_GRADIENTS = 128, 64
# Of as many records as fit, all gradients are held at once, in numbers: of float32 a quarter of a GiB.
MOST_NUMBERS = 1 << 26
NUM_TRIED = 2


def mean_squares(net: nn.Module, loss: Loss, records: Records, *, chunk: int = CHUNK_RECORDS) -> Weights:
    """Return mean_i (grad l(theta; z_i))^2 for each weight: the diagonal of the empirical Fisher.

    Args:
        net: evaluated in eval mode, so that records are independent.
        loss: one number a record, in nats.
        records: at least one.
        chunk: how many records go forward together.
    """
    total: Weights = {}
    squares_of: SquaresOf | None = None
    with untouched(net):
        for indices_B in chunks(records, size=chunk):
            inputs = records.inputs(indices_B)
            aims = loss.aims(records, indices_B, inputs)
            squares_of = squares_of or _way_for(net, loss, inputs, aims)
            for name, value in squares_of(net, loss, inputs, aims).items():
                total[name] = total[name] + value if name in total else value
    return {name: value / len(records) for name, value in total.items()}


def squares_by_layers(net: nn.Module, loss: Loss, inputs: Tensor, aims: Aims) -> Weights:
    """Return the sum over records of squared gradients, from each layer's inputs and output gradients."""
    return layer_squares(net, lambda: loss(net, inputs, aims).sum())


def squares_by_records(net: nn.Module, loss: Loss, inputs: Tensor, aims: Aims) -> Weights:
    """Return the sum over records of squared gradients, by ``torch.func``: for any net, and slower."""
    total: Weights = {}
    num_weights = sum(parameter.numel() for _, parameter in moving(net))
    num = max(1, min(CHUNK_GRADIENTS, MOST_NUMBERS // max(1, num_weights)))
    for start in range(0, len(inputs), num):
        part = slice(start, start + num)
        for name, gradients in record_gradients(net, loss, inputs[part], _part(aims, part)).items():
            squares = (gradients**2).sum(0)
            total[name] = total[name] + squares if name in total else squares
    return total


def _way_for(net: nn.Module, loss: Loss, inputs: Tensor, aims: Aims) -> SquaresOf:
    asked = _asked(net, loss, inputs[:NUM_TRIED], _part(aims, slice(NUM_TRIED)))
    return squares_by_layers if are_layers_enough(net, *asked) else squares_by_records


def _part(aims: Aims, part: slice) -> Aims:
    return each_of(aims, lambda tensor: tensor[part])


def _asked(net: nn.Module, loss: Loss, inputs: Tensor, aims: Aims) -> tuple[Tensor, ...]:
    """Return what a loss asks the net: a generator is shown noised inputs, their timesteps and labels."""
    seen: list[tuple[Tensor, ...]] = []

    def forward(*given: Tensor) -> Tensor:
        seen.append(given)
        answer: Tensor = net(*given)
        return answer

    with torch.no_grad():
        loss(forward, inputs, aims)
    return seen[-1]


def mean_gradient(net: nn.Module, loss: Loss, records: Records, *, chunk: int = 256) -> Weights:
    """Return mean_i grad l(theta; z_i) for each weight."""
    total: Weights = {}
    with untouched(net):
        for indices_B in chunks(records, size=chunk):
            for name, value in _gradient(net, loss, records, indices_B).items():
                total[name] = total[name] + value if name in total else value
    return {name: value / len(records) for name, value in total.items()}


def batch_squares(net: nn.Module, loss: Loss, records: Records, *, batch: int) -> Weights:
    """Return the mean over batches of the square of each batch's mean gradient.

    Not a Fisher diagonal: it depends on who shares a batch. Released codes take it for one, and it is here
    to compare with them.
    """
    total: Weights = {}
    parts = list(chunks(records, size=batch))
    with untouched(net):
        for indices_B in parts:
            found = _gradient(net, loss, records, indices_B)
            for name, value in found.items():
                square = (value / len(indices_B)) ** 2
                total[name] = total[name] + square if name in total else square
    return {name: value / len(parts) for name, value in total.items()}


def record_gradients(net: nn.Module, loss: Loss, inputs: Tensor, aims: Aims) -> Weights:
    """Return the gradient of each record's loss by weight, (B, *shape)."""
    frozen = dict(net.state_dict().items())
    theta = {name: parameter.detach() for name, parameter in moving(net)}

    def loss_of(moving: Weights, one_input: Tensor, one_aim: Aims) -> Tensor:
        def forward(*asked_B: Tensor) -> Tensor:
            answer: Tensor = functional_call(net, {**frozen, **moving}, asked_B)
            return answer

        alone = each_of(one_aim, lambda tensor: tensor.unsqueeze(0))
        return loss(forward, one_input.unsqueeze(0), alone).squeeze(0)

    # Attention's faster kernels cannot be batched over records.
    with sdpa_kernel(SDPBackend.MATH):
        found: Weights = vmap(grad(loss_of), in_dims=(None, 0, 0))(theta, inputs, aims)
    return found


def _gradient(net: nn.Module, loss: Loss, records: Records, indices_B: Tensor) -> Weights:
    """Return the gradient of the sum of some records' losses."""
    inputs = records.inputs(indices_B)
    aims = loss.aims(records, indices_B, inputs)
    parameters = dict(moving(net))
    # A weight that the answer does not depend on has a gradient of zero.
    total = loss(net, inputs, aims).sum()
    sums = torch.autograd.grad(total, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, sums, strict=True))


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Evaluate a net in eval mode; afterwards modes, gradients and torch's random state are as before."""
    modes = {module: module.training for module in net.modules()}
    held = {parameter: parameter.grad for parameter in net.parameters()}
    devices = [p.device for p in net.parameters() if p.device.type == "cuda"][:1]
    net.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
        for parameter, gradient in held.items():
            parameter.grad = gradient
