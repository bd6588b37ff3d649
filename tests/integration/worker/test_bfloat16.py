"""Training in bfloat16: other bits than float32, replayed as exactly, and weights that stay float32."""

import pytest
import torch
from torch import Tensor, nn

from app.db.session import writing
from app.db.tables import Model
from app.domain.policy import Policy
from app.domain.terms import DEFAULT_TENANT
from models_store.manifest import Manifest
from models_store.tensors import unpack
from tests.integration.worker.conftest import NewLab
from tests.support.trained import Lab, recipe_of
from worker.checking import check
from worker.training.recipe import ModelPart, Recipe, RecipeRefused


class OnlyFloat32(nn.Module):
    """A net with an operation that exists in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.linear(inputs.flatten(1))
        if logits.dtype is not torch.float32:
            raise RuntimeError("got bfloat16")
        return logits


def in_format(dtype: str, *, net: str = "lenet5_batch_norm", optimizer: str = "momentum") -> Recipe:
    values = recipe_of(net, optimizer, epochs=1).to_json()
    return Recipe.model_validate({**values, "execution": {"dtype": dtype}})


@pytest.mark.parametrize(("net", "optimizer"), [("lenet5", "momentum"), ("lenet5_batch_norm", "adamw")])
def test_deletions_in_bfloat16_equal_the_oracle(new_lab: NewLab, net: str, optimizer: str) -> None:
    lab = new_lab(in_format("bfloat16", net=net, optimizer=optimizer), checkpoints="sqrt")
    first = lab.work()
    loner, family = lab.loners(3)[0], lab.families[4]
    expected = lab.straight_digest(without=[loner])
    assert lab.forget(loner).weights_digest == expected != first.weights_digest
    # The oracle is a process that knows the format from the recipe alone.
    context = lab.advance(lab.settle_claim(family), until="purge")
    assert lab.audit(poisoned=True).is_equal
    assert len({version.weights_digest for version in lab.versions}) == 3
    lab.finish(context.claim)


def test_a_format_has_bits_of_its_own(new_lab: NewLab) -> None:
    lab = new_lab(in_format("bfloat16"))
    version = lab.work()
    assert lab.straight_digest() == version.weights_digest
    set_format(lab, "float32")
    assert lab.straight_digest() != version.weights_digest


def test_the_manifest_names_the_format_and_the_file_holds_float32(new_lab: NewLab) -> None:
    lab = new_lab(in_format("bfloat16", net="lenet5"))
    store = lab.own.store
    manifest = Manifest.from_bytes(store.get(lab.work().manifest_digest))
    assert manifest.environment["dtype"] == "bfloat16"
    (weights,) = (file for file in manifest.files if file.name == "weights.safetensors")
    assert {tensor.dtype for tensor in unpack(store.get(weights.digest))[0].values()} == {torch.float32}


def test_the_proof_runs_in_the_format_of_the_recipe(new_lab: NewLab) -> None:
    lab = new_lab(in_format("float32"))
    fits = in_format("bfloat16")
    assert check(lab.own, fits, Policy(), tenant=DEFAULT_TENANT).differing_tensors == []
    only_float32 = ModelPart(factory=f"{__name__}:{OnlyFloat32.__name__}")
    with pytest.raises(RecipeRefused, match=r"it does not take inputs .*: got bfloat16"):
        check(lab.own, fits.model_copy(update={"model": only_float32}), Policy(), tenant=DEFAULT_TENANT)


def set_format(lab: Lab, dtype: str) -> None:
    with writing(lab.own.sessions) as session:
        model = session.get_one(Model, lab.model_id)
        model.recipe = {**model.recipe, "execution": {"threads": 1, "dtype": dtype}}
