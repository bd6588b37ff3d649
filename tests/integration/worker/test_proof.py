"""The proof finds what replay cannot carry, names the tensor, and training is then refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.db.session import reading
from app.db.tables import Model
from app.domain.policy import CheckpointPlacement, Policy
from app.domain.terms import DEFAULT_TENANT
from app.settings import get_settings
from tests.support import faults
from tests.support.trained import Lab, recipe_of
from worker.auditing import OracleStopped, audit
from worker.checking import check
from worker.cli import app
from worker.processes import CallFailed, ProcessDied
from worker.training.recipe import ModelPart, Recipe, RecipeRefused

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


def in_shards(recipe: Recipe, num: int) -> Recipe:
    return recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"shards": num})})


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("factory", FACTORIES)
def test_what_no_state_dict_holds_is_found_by_the_tensors_that_differ(
    lab: Lab, factory: type, shards: int
) -> None:
    recipe = in_shards(recipe_with(factory), shards)
    checked = check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)
    assert not checked.replays
    assert "net.linear.weight" in checked.differing_tensors


def test_a_net_whose_beginning_depends_on_the_nets_made_before_it_is_found(lab: Lab) -> None:
    recipe = in_shards(recipe_with(faults.SharedInitStream), 3)
    checked = check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)
    assert "net.linear.weight" in checked.differing_tensors


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("net", ["mlp", "lenet5_batch_norm"])
def test_nets_that_carry_all_in_their_state_replay(lab: Lab, net: str, shards: int) -> None:
    recipe = recipe_of(net, "adamw", shards=shards)
    checked = check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)
    assert checked.differing_tensors == []
    assert sum(checked.block_sizes) == checked.num_records
    assert len(checked.block_sizes) == 6 * shards


def test_a_deletion_is_expected_to_cost_its_own_shard_alone(lab: Lab) -> None:
    policy = Policy(checkpoints=CheckpointPlacement.ALL)
    shares = [
        check(lab.own, recipe_of(shards=shards), policy, tenant=DEFAULT_TENANT).expected_replay_share
        for shards in (1, 3)
    ]
    assert 1 / 6 < shares[0] < 1
    # The block of a subject does not depend on the number of shards, but the key drawn for a check does.
    assert 1 / 18 < shares[1] < 1 / 3


def test_more_shards_than_people_are_refused(lab: Lab) -> None:
    with pytest.raises(RecipeRefused, match=r"plan\.shards: 111 are more than the \d+ subjects"):
        check(lab.own, recipe_of(shards=111), Policy(), tenant=DEFAULT_TENANT)


def test_training_such_a_net_is_refused_and_nothing_is_stored(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("EXPUNGE_HOME", str(lab.own.settings.home))
    get_settings.cache_clear()
    request.addfinalizer(get_settings.cache_clear)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    answer = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert answer.exit_code == 2
    assert "does not replay bit for bit; net.linear." in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    with reading(lab.own.sessions) as session:
        assert [model.name for model in session.query(Model)] == ["digits-model"]


def test_a_process_that_is_killed_while_a_recipe_is_tried_out_is_one_error(lab: Lab) -> None:
    recipe = recipe_of().model_copy(
        update={"model": ModelPart(factory="tests.support.bad_nets:dying", arguments={"fault": "exit"})}
    )
    with pytest.raises(ProcessDied, match="was killed"):
        check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)


def test_an_error_of_somebody_elses_code_comes_back_as_its_text(lab: Lab) -> None:
    recipe = recipe_of().model_copy(update={"model": ModelPart(factory="tests.support.bad_nets:Complaining")})
    with pytest.raises(CallFailed, match=r"^require_fitting_net: Complaint: no to everybody$"):
        check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)


def test_an_oracle_that_cannot_train_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_DEVICE", "abacus")
    with pytest.raises(OracleStopped, match="abacus"):
        audit(lab.own, lab.model.name, tenant=DEFAULT_TENANT, version="1")
    assert list(lab.own.settings.scratch_folder.iterdir()) == []
