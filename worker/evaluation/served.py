"""As served: the weights as a consumer will fetch them, read back through the store."""

import torch
from torch import nn

from models_store.blobs import BlobStore, Digest
from models_store.ensemble import logits_of
from models_store.errors import StoreError
from models_store.tensors import check_against, tensor_digest, unpack
from worker.evaluation.gates import Check
from worker.evaluation.utility import Sample

NAME = "as_served"
POWER = "certain for bytes, names, shapes or types that differ from what was trained, and for NaN"


def served_check(
    trained: list[nn.Module], fresh: list[nn.Module], *, files: list[Digest], store: BlobStore, probe: Sample
) -> Check:
    """Load each constituent's file into a fresh net and compare predictions bit for bit.

    ``fresh`` are newly built nets of the same recipe; their weights are overwritten.
    """
    try:
        for net, empty, digest in zip(trained, fresh, files, strict=True):
            problem = compare_as_served(net, empty, data=store.get(digest), probe=probe)
            if problem:
                return Check(name=NAME, holds=False, is_gate=True, power=POWER, problem=problem)
    except StoreError as error:
        return Check(name=NAME, holds=False, is_gate=True, power=POWER, problem=str(error))
    figures = {"num_files": len(files), "num_probes": len(probe)}
    return Check(name=NAME, holds=True, is_gate=True, power=POWER, figures=dict(figures))


def compare_as_served(trained: nn.Module, fresh: nn.Module, *, data: bytes, probe: Sample) -> str:
    """Say how a file differs from the net that it holds the weights of; empty if it does not.

    ``fresh`` is a net of the same recipe, whose weights are overwritten.

    Raises:
        TensorFileRefused: the file's tensors do not fit ``fresh``.
    """
    tensors, _ = unpack(data)
    check_against(tensors, expected=fresh.state_dict())
    fresh.load_state_dict(tensors)
    if tensor_digest(tensors) != tensor_digest(trained.state_dict()):
        return "the file holds other weights than were trained"
    if len(probe) and not torch.equal(logits_of(fresh, probe.inputs), logits_of(trained, probe.inputs)):
        return "the file predicts otherwise than the trained net"
    return ""
