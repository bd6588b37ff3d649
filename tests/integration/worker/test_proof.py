"""The proof finds what replay cannot carry, names the tensor, and training is then refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.db.session import reading
from app.db.tables import Model
from app.domain.policy import Policy
from app.domain.terms import DEFAULT_TENANT
from app.settings import get_settings
from tests.support import faults
from tests.support.trained import Lab, recipe_of
from worker.checking import check
from worker.cli import app
from worker.training.recipe import ModelPart, Recipe

FACTORIES = [faults.HiddenBuffer, faults.CountingAttribute, faults.OwnRandomStream]

RECIPE = """
name = "another"
[model]
factory = "tests.support.faults:CountingAttribute"
arguments = {in_features = 64, num_classes = 10}
[data]
dataset = "digits"
[plan]
blocks = 6
batch_size = 16
[optimizer]
name = "sgd"
learning_rate = 0.1
"""


def recipe_with(factory: type) -> Recipe:
    model = ModelPart(
        factory=f"{factory.__module__}:{factory.__name__}",
        arguments={"in_features": 64, "num_classes": 10},
    )
    return recipe_of().model_copy(update={"model": model})


@pytest.mark.parametrize("factory", FACTORIES)
def test_what_no_state_dict_holds_is_found_by_the_tensors_that_differ(lab: Lab, factory: type) -> None:
    checked = check(lab.own, recipe_with(factory), Policy(), tenant=DEFAULT_TENANT)
    assert not checked.replays
    assert "net.linear.weight" in checked.differing_tensors


@pytest.mark.parametrize("net", ["mlp", "lenet5_batch_norm"])
def test_nets_that_carry_all_in_their_state_replay(lab: Lab, net: str) -> None:
    checked = check(lab.own, recipe_of(net, "adamw"), Policy(), tenant=DEFAULT_TENANT)
    assert checked.differing_tensors == []
    assert sum(checked.block_sizes) == checked.num_records


def test_training_such_a_net_is_refused_and_nothing_is_stored(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("EXPUNGE_HOME", str(lab.own.settings.home))
    get_settings.cache_clear()
    request.addfinalizer(get_settings.cache_clear)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    answer = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert answer.exit_code == 2
    assert "does not replay bit for bit; net.linear.bias" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    with reading(lab.own.sessions) as session:
        assert [model.name for model in session.query(Model)] == ["digits-model"]
