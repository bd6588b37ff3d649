"""How a version answers: its constituents together, by the rule that its manifest names.

Promises: nets answer in evaluation mode, without gradients, to a fixed number of inputs at once (equal
weights give equal bits); weights from files were compared with the digests of the manifest before.
Never imports code that a manifest names: whoever loads a version hands over the factory.

Shape suffixes: S constituents, N inputs, K classes; * is the shape of one input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_store.blobs import digest_of
from models_store.errors import BlobCorrupt, BlobMissing
from models_store.manifest import Combine, Manifest, ManifestFile
from models_store.tensors import check_against, unpack

_CHUNK = 500


@dataclass(frozen=True)
class Ensemble:
    """The constituents of one version, in shard order, and how their answers become one.

    Inputs are float32 of shape (N, *), as the manifest's ``input_schema`` says, on the nets' device.
    """

    nets: Sequence[nn.Module]
    combine: Combine = "mean"

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return the share of each class as float64 (N, K), each row summing to 1.

        The mean of the constituents' softmax, or for a vote the share of constituents that chose the class.
        """
        logits_SNK = self._logits(inputs)
        match self.combine:
            case "mean":
                return _log_mean(logits_SNK).exp()
            case "vote":
                return _votes(logits_SNK) / len(self.nets)
            case _:
                assert_never(self.combine)

    def log_probabilities(self, inputs: Tensor) -> Tensor:
        """Return the logarithm of the mean softmax as float64 (N, K), whatever the rule.

        It is what a loss is taken of: a share of no votes has no finite one.
        """
        return _log_mean(self._logits(inputs))

    def labels(self, inputs: Tensor) -> Tensor:
        """Return the chosen class of each input as int64 (N,); votes tie by the mean softmax."""
        logits_SNK = self._logits(inputs)
        if len(self.nets) == 1:
            # A softmax could round two logits to one share.
            return logits_SNK[0].argmax(dim=1)
        log_mean_NK = _log_mean(logits_SNK)
        if self.combine == "vote":
            votes_NK = _votes(logits_SNK)
            log_mean_NK[votes_NK < votes_NK.amax(dim=1, keepdim=True)] = -torch.inf
        return log_mean_NK.argmax(dim=1)

    def _logits(self, inputs: Tensor) -> Tensor:
        return torch.stack([logits_of(net, inputs) for net in self.nets])


@torch.no_grad()
def logits_of(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits (N, K) in evaluation mode, in parts of a fixed size; the net's mode is kept.

    They are computed in float32, as the weights are served, whatever format the recipe trains in.
    """
    was_training = net.training
    net.eval()
    parts = [net(part) for part in inputs.split(_CHUNK)]
    net.train(was_training)
    return torch.cat(parts)


def load_ensemble(
    folder: Path, manifest: Manifest, *, factory: Callable[..., nn.Module], device: torch.device | str = "cpu"
) -> Ensemble:
    """Return a version from a folder that holds its weights files under their names in the manifest.

    ``factory`` is the callable that ``manifest.factory`` names; it gets the manifest's arguments.

    Raises:
        BlobMissing: a file is not there.
        BlobCorrupt: a file cannot be read, or is not the one that the manifest names.
        TensorFileRefused: its tensors do not fit what the factory makes.
    """
    nets = []
    for file in manifest.constituents:
        tensors, _ = unpack(_verified(folder, file))
        net = factory(**manifest.factory_arguments)
        check_against(tensors, expected=net.state_dict())
        net.load_state_dict(tensors)
        nets.append(net.to(device).eval())
    return Ensemble(nets=tuple(nets), combine=manifest.combine or "mean")


def _verified(folder: Path, file: ManifestFile) -> bytes:
    try:
        data = (folder / file.name).read_bytes()
    except FileNotFoundError as error:
        raise BlobMissing(f"{file.name} is not in {folder}") from error
    except OSError as error:
        raise BlobCorrupt(f"{file.name} cannot be read: {error}") from error
    if digest_of(data) != file.digest:
        raise BlobCorrupt(f"{file.name} is not the file that the manifest names")
    return data


def _log_mean(logits_SNK: Tensor) -> Tensor:
    """Return the logarithm of the mean softmax (N, K); of a single net it is its log-softmax, bit for bit."""
    num = torch.tensor(len(logits_SNK), dtype=torch.float64, device=logits_SNK.device)
    return F.log_softmax(logits_SNK.double(), dim=2).logsumexp(dim=0) - num.log()


def _votes(logits_SNK: Tensor) -> Tensor:
    """Return how many constituents chose each class, as float64 (N, K)."""
    chosen_SN = logits_SNK.argmax(dim=2)
    return F.one_hot(chosen_SN, logits_SNK.shape[2]).sum(dim=0).double()
