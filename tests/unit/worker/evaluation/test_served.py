"""As served: only the very weights that were trained pass, read back through the store."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models_store.blobs import BlobStore, digest_of
from models_store.tensors import pack
from worker.evaluation.gates import Check
from worker.evaluation.served import served_check
from worker.evaluation.utility import Sample
from worker.training.nets import mlp

PROBE = Sample(inputs=torch.linspace(-1, 1, 20).reshape(5, 4), labels=torch.zeros(5, dtype=torch.int64))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def net_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(4, 3, hidden=[5], batch_norm=True)


def check_with(blobs: BlobStore, change: Callable[[dict[str, torch.Tensor]], object]) -> Check:
    """Check a file in which something was changed after training."""
    trained = net_of()
    tensors = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    change(tensors)
    file = blobs.put(pack(tensors, note={}))
    return served_check([trained], [net_of(1)], files=[file], store=blobs, probe=PROBE)


def test_what_was_trained_passes(blobs: BlobStore) -> None:
    check = check_with(blobs, lambda tensors: None)
    assert check.holds
    assert check.is_gate
    assert check.figures == {"num_files": 1, "num_probes": 5}


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "one bit": (lambda t: t["1.weight"].view(torch.uint8)[0, 0].bitwise_xor_(1), "other weights"),
    "a buffer": (lambda t: t["2.running_mean"].add_(1), "other weights"),
    "a signed zero": (lambda t: t["2.running_mean"].mul_(-1), "other weights"),
    "not a number": (lambda t: t["1.bias"].fill_(torch.nan), "holds NaN"),
    "infinity": (lambda t: t["4.bias"].fill_(torch.inf), "holds NaN or infinity"),
    "a missing tensor": (lambda t: t.pop("4.bias"), "missing"),
    "a foreign tensor": (lambda t: t.update(more=torch.zeros(1)), "unexpected"),
    "another type": (lambda t: t.update({"4.bias": t["4.bias"].double()}), "dtype"),
    "another shape": (lambda t: t.update({"4.bias": t["4.bias"][:1]}), "shape"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_else_lies_in_the_store_is_caught(blobs: BlobStore, name: str) -> None:
    change, problem = CHANGES[name]
    check = check_with(blobs, change)
    assert not check.holds
    assert check.is_gate
    assert problem in check.problem


def test_a_file_that_is_not_there_is_caught(blobs: BlobStore) -> None:
    net, missing = net_of(), digest_of(b"never stored")
    check = served_check([net], [net_of(1)], files=[missing], store=blobs, probe=PROBE)
    assert not check.holds
    assert missing in check.problem


def test_equal_weights_in_a_net_that_predicts_otherwise_are_caught(blobs: BlobStore) -> None:
    trained, fresh = net_of(), net_of(1)
    file = blobs.put(pack(trained.state_dict(), note={}))
    fresh.register_forward_hook(lambda module, inputs, output: output + 1)
    check = served_check([trained], [fresh], files=[file], store=blobs, probe=PROBE)
    assert check.problem == "the file predicts otherwise than the trained net"
