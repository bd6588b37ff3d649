"""The recipe of a model that was trained elsewhere: no plan, and a policy under which deletions can end."""

from pathlib import Path

import pytest

from app.domain.policy import Policy, WhenGateFails
from worker.training.recipe import PlanPart, RecipeRefused, read_recipe
from worker.training.registered import RegisteredRecipe, read_registered, require_plan, stored_recipe

GOOD = """
name = "digits"
batch_size = 64
[model]
factory = "worker.training.nets:mlp"
arguments = {in_features = 64, num_classes = 10}
[data]
dataset = "digits"
[optimizer]
name = "sgd"
learning_rate = 0.1
[policy]
accept_empirical = true
"""
TRAINED = GOOD.replace("batch_size = 64\n", "").replace("accept_empirical = true", "") + (
    "[plan]\nblocks = 8\nbatch_size = 64\n"
)
AS_A_PLAN_SAYS = {"hot_cuts": "[0.5]", "hot_blocks": "[2]"}


def refused(text: str, folder: Path) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeRefused) as error:
        read_registered(path)
    said = str(error.value)
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def test_data_loss_batch_size_and_optimizer_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    recipe, policy = read_registered(path)
    assert (recipe.name, recipe.batch_size, recipe.model.loss) == ("digits", 64, "cross_entropy")
    assert policy == Policy(
        final_method="sfron", accept_empirical=True, when_gate_fails=WhenGateFails.FAIL
    )  # nothing else differs from any other model's
    assert (recipe.num_shards, recipe.num_positions, recipe.num_visits) == (1, 1, 1)


@pytest.mark.parametrize("key", sorted(PlanPart.model_fields))
def test_every_number_of_a_plan_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    said = refused(f"{GOOD}[plan]\n{key} = {AS_A_PLAN_SAYS.get(key, '4')}\n", tmp_path)
    assert said.startswith(f"plan.{key}: a model that was trained elsewhere has no plan")


def test_all_of_a_plan_and_its_schedule_are_named_at_once(tmp_path: Path) -> None:
    parts = '[plan]\nblocks = 4\nseed = 1\n[schedule]\nname = "cosine"\n'
    assert refused(GOOD + parts, tmp_path).startswith("plan.blocks, plan.seed, schedule.name: ")
    assert refused(f"{GOOD}[plan]\n", tmp_path).startswith("plan: ")
    assert refused("plan = 4\n" + GOOD, tmp_path).startswith("plan: ")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("batch_size = 64", ""), "batch_size: Field required"),
        (("batch_size = 64", "batch_size = 0"), "batch_size: "),
        (("batch_size = 64", "batch_size = 64\nblocks = 3"), "blocks: unknown field"),
        (("[data]", 'combine = "vote"\n[data]'), "model: combine: there is one file"),
        (("worker.training.nets:mlp", "no colon"), "model.factory: "),
        (("[data]", "losses = 1\n[data]"), "model.losses: unknown field"),
        (("learning_rate = 0.1", ""), "optimizer.learning_rate: Field required"),
        (("accept_empirical = true", "accept_emperical = true"), "policy.accept_empirical: must be true"),
        (("accept_empirical = true", "accept_empirical = true\nmax = 1"), "policy.max: unknown field"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_by_its_name(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    assert complaint in refused(GOOD.replace(*change), tmp_path)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ('final_method = "replay"', "final_method"),
        ('final_method = "retrain"', "final_method"),
        ('final_method = "stitch"', "final_method"),
        ('final_method = "stitch"\nreferences = true', "final_method"),
        ('final_method = "magic"', "final_method"),
        ('interim_method = "sfron"', "interim_method"),
        ('interim_method = "stitch"', "interim_method"),
        ('when_gate_fails = "next"', "when_gate_fails"),
        ('checkpoints = "all"', "checkpoints"),
        ("checkpoint_count = 3", "checkpoint_count"),
        ('prior = {kind = "recency", half_life_blocks = 3}', "prior"),
        ("witness_blocks = 2", "witness_blocks"),
        ("references = true", "references"),
        ("stitch = {epsilon = 0.5}", "stitch"),
        ("methods = {sfron = {cycels = 3}}", "methods.sfron.cycels"),
    ],
)
def test_a_policy_that_needs_a_plan_is_refused_by_its_field(tmp_path: Path, setting: str, field: str) -> None:
    text = GOOD.replace("accept_empirical = true", f"accept_empirical = true\n{setting}")
    assert refused(text, tmp_path).startswith(f"policy.{field}: ")


@pytest.mark.parametrize("table", ["", "[policy]\nmax_drop = 0.05\n", "[policy]\naccept_empirical = false\n"])
def test_that_an_empirical_method_ends_deletions_must_be_said(tmp_path: Path, table: str) -> None:
    text = GOOD.replace("[policy]\naccept_empirical = true\n", table)
    assert refused(text, tmp_path).startswith("policy.accept_empirical: must be true")


def test_the_recipe_of_a_training_is_refused_where_models_are_registered_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    assert refused(TRAINED, tmp_path).startswith("plan.blocks, plan.batch_size: ")
    path = tmp_path / "registered.toml"
    path.write_text(GOOD)
    with pytest.raises(RecipeRefused, match="batch_size: unknown field"):
        read_recipe(path)


def test_a_stored_recipe_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TRAINED)
    trained, _ = read_recipe(path)
    assert stored_recipe(trained.to_json()) == trained == require_plan(trained)
    path.write_text(GOOD)
    registered, _ = read_registered(path)
    found = stored_recipe(registered.to_json())
    assert isinstance(found, RegisteredRecipe)
    assert found == registered
    assert found.digest() == registered.model_copy(update={"name": "other"}).digest() != trained.digest()
    with pytest.raises(RecipeRefused, match="digits was trained elsewhere: it has no plan"):
        require_plan(found)
