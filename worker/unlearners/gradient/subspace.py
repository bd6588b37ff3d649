"""The inputs that retained records give each layer, as a subspace; gradients are projected off it.

A layer answers W x + b. Where the gradient of [W b] is orthogonal to [x 1], a step along it leaves the answer
to x as it is. For a convolution x are the patches of its inputs; where a layer runs several times in one
forward pass, they are those of every run. What belongs to no such layer has no subspace and does not move.

Promises: the projector P is symmetric and idempotent, and g x = 0 for every x that it keeps.

Shape suffixes: B records, G groups, T places, D inputs of a layer with 1 for its bias, O outputs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.course import Gradients
from worker.unlearners.gradient.layers import patches, recorded
from worker.unlearners.gradient.records import Records, chunks
from worker.unlearners.gradient.statistics import untouched

Layer = nn.Linear | nn.Conv2d
CHUNK_RECORDS = 128


def layers_of(net: nn.Module) -> dict[str, Layer]:
    """Return the linear and convolutional layers by name; no other kind, and none derived from them.

    None either that shares a weight with another module, which feels a step as well. A weight that the net
    also uses by itself, without its layer, is not found out.
    """
    owned = Counter(id(p) for module in net.modules() for p in module.parameters(recurse=False))
    return {
        name: m
        for name, m in net.named_modules()
        if (type(m) is nn.Linear or type(m) is nn.Conv2d) and all(owned[id(p)] == 1 for p in m.parameters())
    }


def given_to(layer: Layer, inputs: Tensor) -> Tensor:
    """Return what the rows of [W b] are multiplied with, (G, D, B T)."""
    if isinstance(layer, nn.Conv2d):
        given_GDN = patches(layer, inputs).permute(1, 2, 0, 3).flatten(2)
    else:
        given_GDN = inputs.reshape(-1, inputs.shape[-1]).T.unsqueeze(0)
    if layer.bias is None:
        return given_GDN
    return torch.cat([given_GDN, torch.ones_like(given_GDN[:, :1])], dim=1)


def kept_inputs(net: nn.Module, records: Records, *, energy: float) -> dict[str, Tensor]:
    """Return for each layer the projector (G, D, D) onto what these records give it; the net is untouched.

    Of the directions, by falling size, as many are kept as have the share ``energy`` of all squares; with 1
    all of them that are not nothing.
    """
    layers = layers_of(net)
    moments: dict[str, Tensor] = {}
    with untouched(net), torch.no_grad():
        for indices_B in chunks(records, size=CHUNK_RECORDS):
            with recorded(net, layers) as calls:
                net(records.inputs(indices_B))
            for name, call in [(name, call) for name, own in calls.items() for call in own]:
                given_GDN = given_to(layers[name], call.inputs).double()
                moment_GDD = given_GDN @ given_GDN.mT
                moments[name] = moments[name] + moment_GDD if name in moments else moment_GDD
    return {name: _projector(moment, energy=energy) for name, moment in moments.items()}


@dataclass(frozen=True)
class ProjectOff:
    """Takes out of gradients, in place, what the kept inputs would feel: G <- G (I - P)."""

    layers: Mapping[str, Layer]
    kept: Mapping[str, Tensor]

    def __call__(self, gradients: Gradients) -> None:
        """Project; gradients of anything else than these layers become zero."""
        is_done = {name for layer in self.kept for name in self._project(layer, gradients)}
        for name in gradients.keys() - is_done:
            gradients[name].zero_()

    def _project(self, name: str, gradients: Gradients) -> list[str]:
        layer, (weight, bias) = self.layers[name], (f"{name}.weight".lstrip("."), f"{name}.bias".lstrip("."))
        own = [key for key in (weight, bias) if key in gradients]
        if weight not in gradients or (layer.bias is not None and bias not in gradients):
            return []  # half frozen: the other half alone cannot be orthogonal
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        rows_GOD = gradients[weight].reshape(groups, len(layer.weight) // groups, -1)
        if layer.bias is not None:
            rows_GOD = torch.cat([rows_GOD, gradients[bias].reshape(groups, -1, 1)], dim=2)
        free_GOD = rows_GOD - rows_GOD @ self.kept[name].to(rows_GOD)
        if layer.bias is not None:
            gradients[bias].copy_(free_GOD[..., -1].flatten())
            free_GOD = free_GOD[..., :-1]
        gradients[weight].copy_(free_GOD.reshape(layer.weight.shape))
        return own


def _projector(moment_GDD: Tensor, *, energy: float) -> Tensor:
    """Return the projector onto the leading directions of each group's second moment."""
    values_GD, vectors_GDD = torch.linalg.eigh(moment_GDD)
    nothing = values_GD[:, -1:] * values_GD.shape[1] * torch.finfo(values_GD.dtype).eps
    sizes_GD = values_GD.where(values_GD > nothing, torch.zeros_like(values_GD)).flip(1)
    before_GD = sizes_GD.cumsum(1) - sizes_GD
    is_kept_GD = (sizes_GD > 0) & (before_GD < energy * sizes_GD.sum(1, keepdim=True))
    basis_GDD = vectors_GDD.flip(2) * is_kept_GD.unsqueeze(1)
    projector_GDD: Tensor = basis_GDD @ basis_GDD.mT
    return projector_GDD
