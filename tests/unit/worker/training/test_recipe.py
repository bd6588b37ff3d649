"""A recipe: wrong fields are refused by name; what shapes bits is in the digest, the policy is not."""

from pathlib import Path

import pytest

from app.domain import policy as policy_rules
from app.domain.policy import Policy
from worker.training.recipe import RecipeRefused, read_recipe, recipe_from_json

GOOD = """
name = "digits"
[model]
factory = "worker.training.nets:mlp"
arguments = {in_features = 64, num_classes = 10}
[data]
dataset = "digits"
[plan]
blocks = 8
batch_size = 16
[optimizer]
name = "sgd"
learning_rate = 0.1
"""

WRONG = {
    "data.dataset": ('dataset = "digits"', ""),
    "name": ('name = "digits"\n[model]', 'name = "No Spaces"\n[model]'),
    "model.factory": ("worker.training.nets:mlp", "no colon"),
    "plan.blocks": ("blocks = 8", "blocks = 0"),
    "plan.shards": ("blocks = 8", "blocks = 8\nshards = 2"),
    "plan.block": ("blocks = 8", "blocks = 8\nblock = 9"),
    "optimizer": ('name = "sgd"', 'name = "lion"'),
    "optimizer.learning_rate": ("learning_rate = 0.1", "learning_rate = -1"),
    "policy.witness_block": ("", "\n[policy]\nwitness_block = 1"),
    "policy": ("", "\n[policy]\nmax_drop = 2.0"),
    "policy.final_method": ("", '\n[policy]\nfinal_method = "magic"\naccept_empirical = true'),
    "policy.interim_method": ("", '\n[policy]\ninterim_method = "replay"'),
    "policy.when_gate_fails": ("", '\n[policy]\nwhen_gate_fails = "retry"'),
    "execution.dtype": ("", '\n[execution]\ndtype = "float16"'),
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_refused_by_its_name(tmp_path: Path, field: str) -> None:
    old, new = WRONG[field]
    text = GOOD.replace(old, new, 1) if old else GOOD + new
    with pytest.raises(RecipeRefused) as refused:
        read_recipe(written(tmp_path, text))
    assert f"recipe.toml: {field}" in str(refused.value)


def test_an_empirical_final_method_needs_the_word_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_rules, "EMPIRICAL_METHODS", ("shift",))
    text = GOOD + '\n[policy]\nfinal_method = "shift"'
    with pytest.raises(RecipeRefused, match=r"recipe.toml: policy.final_method: shift is empirical"):
        read_recipe(written(tmp_path, text))
    _, policy = read_recipe(written(tmp_path, text + "\naccept_empirical = true"))
    assert policy.settles_empirically


@pytest.mark.parametrize("text", ["name = ", "[plan"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeRefused, match="not TOML"):
        read_recipe(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefused, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_nesterov_without_momentum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefused, match="nesterov needs a momentum"):
        read_recipe(written(tmp_path, GOOD + "nesterov = true"))


def test_the_policy_and_the_name_are_outside_the_digest(tmp_path: Path) -> None:
    plain, policy = read_recipe(written(tmp_path, GOOD))
    renamed = GOOD.replace('name = "digits"', 'name = "other"', 1) + '\n[policy]\ncheckpoints = "all"'
    other, other_policy = read_recipe(written(tmp_path, renamed))
    assert plain.digest() == other.digest()
    assert (policy, other_policy.checkpoints) == (Policy(), "all")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks = 8", "blocks = 9"),
        ("batch_size = 16", "batch_size = 17"),
        ("learning_rate = 0.1", "learning_rate = 0.2"),
        ("num_classes = 10", "num_classes = 11"),
        ('dataset = "digits"', 'dataset = "digits"\nmean = 0.5'),
        ("learning_rate = 0.1", "learning_rate = 0.1\n[execution]\nthreads = 2"),
        ("learning_rate = 0.1", 'learning_rate = 0.1\nimplementation = "foreach"'),
    ],
)
def test_what_shapes_bits_is_in_the_digest(tmp_path: Path, old: str, new: str) -> None:
    plain, _ = read_recipe(written(tmp_path, GOOD))
    other, _ = read_recipe(written(tmp_path, GOOD.replace(old, new)))
    assert plain.digest() != other.digest()


def test_a_stored_recipe_is_the_one_that_was_read(tmp_path: Path) -> None:
    recipe, _ = read_recipe(written(tmp_path, GOOD))
    assert recipe_from_json(recipe.to_json()) == recipe
