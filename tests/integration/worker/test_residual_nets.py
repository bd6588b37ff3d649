"""Residual nets replay bit for bit, whether or not their norm couples the records of a batch."""

import pytest

from tests.integration.worker.conftest import NewLab
from tests.support.trained import recipe_of
from worker.training.recipe import Recipe


def residual(norm: str, *, min_present: int) -> Recipe:
    arguments = {"num_classes": 10, "in_channels": 1, "norm": norm}
    model = {"factory": "worker.training.nets:small_resnet", "arguments": arguments}
    values = recipe_of(epochs=1, min_present=min_present).to_json()
    return Recipe.model_validate({**values, "model": model, "schedule": {"name": "linear"}})


@pytest.mark.parametrize(("norm", "min_present"), [("batch", 2), ("group", 1)])
def test_deletions_from_a_residual_net_equal_the_oracle(new_lab: NewLab, norm: str, min_present: int) -> None:
    lab = new_lab(residual(norm, min_present=min_present), checkpoints="sqrt")
    first = lab.work()
    loner, family = lab.loners(3)[0], lab.families[4]
    expected = lab.straight_digest(without=[loner])
    assert lab.forget(loner).weights_digest == expected != first.weights_digest
    context = lab.advance(lab.settle_claim(family), until="purge")
    assert lab.audit(poisoned=True).is_equal
    assert len({version.weights_digest for version in lab.versions}) == 3
    lab.finish(context.claim)
