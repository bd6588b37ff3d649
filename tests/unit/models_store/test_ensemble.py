"""The helper that combines constituents: closed forms of both rules, and files that are what they say.

Shape suffixes: S constituents, N inputs, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models_store.blobs import digest_of
from models_store.ensemble import Ensemble, load_ensemble, logits_of
from models_store.errors import BlobCorrupt, BlobMissing, StoreError, TensorFileRefused
from models_store.manifest import Combine, Manifest, ManifestFile, constituent_names
from models_store.tensors import pack
from tests.support.world import manifest_of


class Says(nn.Module):
    """Gives the same logits (K,) to every input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return self.logits.expand(len(inputs), -1)


def saying(shares_SK: list[list[float]], combine: Combine) -> Ensemble:
    """Return constituents whose softmax is this for every input."""
    return Ensemble([Says(torch.tensor(shares).log()) for shares in shares_SK], combine=combine)


INPUTS = torch.zeros(3, 2)
# Two of three choose class 0 by a hair; the third is sure of class 1.
SPLIT = [[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.05, 0.9, 0.05]]


def test_the_mean_is_that_of_the_softmax_and_the_vote_counts_heads() -> None:
    mean, vote = saying(SPLIT, "mean"), saying(SPLIT, "vote")
    expected = torch.tensor([1.05, 1.7, 0.25], dtype=torch.float64).expand(3, 3) / 3
    torch.testing.assert_close(mean.probabilities(INPUTS), expected, rtol=0, atol=1e-7)
    assert vote.probabilities(INPUTS).tolist() == [[2 / 3, 1 / 3, 0.0]] * 3
    assert mean.labels(INPUTS).tolist() == [1, 1, 1]
    assert vote.labels(INPUTS).tolist() == [0, 0, 0]
    torch.testing.assert_close(vote.log_probabilities(INPUTS).exp(), expected, rtol=0, atol=1e-7)


def test_a_tie_of_votes_goes_to_the_larger_mean_and_never_to_a_class_with_fewer_votes() -> None:
    tied = [[0.5, 0.1, 0.4], [0.1, 0.6, 0.3]]
    assert saying(tied, "vote").labels(INPUTS).tolist() == [1, 1, 1]
    # The mean would choose class 2, which nobody voted for.
    runner_up = [[0.51, 0.0001, 0.4899], [0.0001, 0.52, 0.4799]]
    assert saying(runner_up, "mean").labels(INPUTS).tolist() == [2, 2, 2]
    assert saying(runner_up, "vote").labels(INPUTS).tolist() == [1, 1, 1]


logits = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4), min_size=1, max_size=5)


@given(logits_SK=logits)
def test_both_rules_are_what_counting_by_hand_gives(logits_SK: list[list[float]]) -> None:
    nets = [Says(torch.tensor(row)) for row in logits_SK]
    rows = [torch.tensor(row, dtype=torch.float64).softmax(0) for row in logits_SK]
    mean = [sum(float(row[k]) for row in rows) / len(rows) for k in range(4)]
    heads = [int(torch.tensor(row).argmax()) for row in logits_SK]
    votes = [heads.count(k) for k in range(4)]
    torch.testing.assert_close(
        Ensemble(nets).probabilities(INPUTS)[0], torch.tensor(mean, dtype=torch.float64)
    )
    assert Ensemble(nets, combine="vote").probabilities(INPUTS)[0].tolist() == [n / len(nets) for n in votes]
    chosen = int(Ensemble(nets, combine="vote").labels(INPUTS)[0])
    assert votes[chosen] == max(votes)
    assert mean[chosen] >= max(mean[k] for k in range(4) if votes[k] == max(votes)) - 1e-12


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_a_single_constituent_chooses_its_largest_logit_however_close_the_next(combine: Combine) -> None:
    close = torch.tensor([1e-30, 2e-30, 0.0])
    assert Ensemble([Says(close)], combine=combine).labels(INPUTS).tolist() == [1, 1, 1]
    log_shares = Ensemble([Says(close)]).log_probabilities(INPUTS)
    assert torch.equal(log_shares[0], close.double().log_softmax(0))


def test_nets_answer_in_evaluation_mode_without_gradients_and_stay_as_they_were() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 3)).train()
    shares = Ensemble([net]).probabilities(torch.randn(1201, 2))
    assert (shares.shape, shares.dtype, shares.requires_grad) == ((1201, 3), torch.float64, False)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1201, dtype=torch.float64))
    assert net.training
    assert int(net[0].num_batches_tracked) == 0


def linear(features: int) -> nn.Module:
    return nn.Linear(features, 3)


def fetched(folder: Path, *, num: int) -> tuple[list[nn.Module], Manifest]:
    """Write the files of a version as a consumer would have fetched them."""
    nets = [linear(2) for _ in range(num)]
    files = []
    for name, net in zip(constituent_names(num), nets, strict=True):
        data = pack(net.state_dict(), note={})
        (folder / name).write_bytes(data)
        files.append(ManifestFile(name=name, digest=digest_of(data), size=len(data)))
    evidence = ManifestFile(name="evidence.json", digest=digest_of(b"not fetched"), size=11)
    base = manifest_of(weights=b"")
    arguments = {"features": 2}
    return nets, replace(
        base, files=(*files, evidence), factory_arguments=arguments, combine="vote" if num > 1 else None
    )


@pytest.mark.parametrize("num", [1, 3])
def test_fetched_files_predict_what_the_nets_did(tmp_path: Path, num: int) -> None:
    nets, manifest = fetched(tmp_path, num=num)
    loaded = load_ensemble(tmp_path, manifest, factory=linear)
    inputs = torch.randn(7, 2)
    assert loaded.combine == ("vote" if num > 1 else "mean")
    for net, again in zip(nets, loaded.nets, strict=True):
        assert torch.equal(logits_of(net, inputs), logits_of(again, inputs))


FAULTS: dict[str, tuple[Callable[[Path], object], type[StoreError]]] = {
    "missing": (lambda path: path.unlink(), BlobMissing),
    "changed": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"), BlobCorrupt),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), BlobCorrupt),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_the_manifests_is_refused_by_its_name(tmp_path: Path, fault: str) -> None:
    _, manifest = fetched(tmp_path, num=3)
    spoil, error = FAULTS[fault]
    spoil(tmp_path / "weights-001.safetensors")
    with pytest.raises(error, match=r"weights-001\.safetensors"):
        load_ensemble(tmp_path, manifest, factory=linear)


def test_a_factory_that_makes_another_net_is_refused(tmp_path: Path) -> None:
    _, manifest = fetched(tmp_path, num=1)
    with pytest.raises(TensorFileRefused, match="shape"):
        load_ensemble(tmp_path, manifest, factory=lambda features: nn.Linear(features, 4))
