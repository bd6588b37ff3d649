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
    "plan.shards": ("blocks = 8", "blocks = 8\nshards = 0"),
    "model.combine": ("[data]", 'combine = "median"\n[data]'),
    "recipe: model.combine": ("[data]", 'combine = "vote"\n[data]'),
    "plan.hot_cuts: the cuts must ascend": (
        "blocks = 8", "blocks = 8\nhot_cuts = [0.5, 0.5]\nhot_blocks = [1, 1]"
    ),
    "plan.hot_cuts.0": ("blocks = 8", "blocks = 8\nhot_cuts = [0]\nhot_blocks = [1]"),
    "plan.hot_cuts.1": ("blocks = 8", "blocks = 8\nhot_cuts = [1, inf]\nhot_blocks = [1, 1]"),
    "plan.hot_blocks.0": ("blocks = 8", "blocks = 8\nhot_cuts = [0.5]\nhot_blocks = [0]"),
    "plan.hot_blocks: give 1, one a cut, not 0": ("blocks = 8", "blocks = 8\nhot_cuts = [0.5]"),
    "plan.hot_blocks: give 0": ("blocks = 8", "blocks = 8\nhot_blocks = [1]"),
    "plan.hot_blocks: 8 of 8 blocks": (
        "blocks = 8", "blocks = 8\nhot_cuts = [0.5, 2]\nhot_blocks = [3, 5]"
    ),
    "plan.block": ("blocks = 8", "blocks = 8\nblock = 9"),
    "optimizer": ('name = "sgd"', 'name = "lion"'),
    "optimizer.learning_rate": ("learning_rate = 0.1", "learning_rate = -1"),
    "policy.witness_block": ("", "\n[policy]\nwitness_block = 1"),
    "policy": ("", "\n[policy]\nmax_drop = 2.0"),
    "policy.checkpoints": ("", '\n[policy]\ncheckpoints = "some"'),
    "policy: checkpoint_count must": ("", "\n[policy]\ncheckpoint_count = 0"),
    "policy.checkpoint_count: 8 blocks have 7": ("", "\n[policy]\ncheckpoint_count = 8"),
    "policy.prior: Input": ("", '\n[policy]\nprior = "recency"'),
    "policy.prior.kind": ("", '\n[policy]\nprior = {kind = "late"}'),
    "policy.prior.half_life: unknown field": ("", '\n[policy]\nprior = {kind = "recency", half_life = 3}'),
    "policy.prior: half_life_blocks": ("", '\n[policy]\nprior = {kind = "recency"}'),
    "policy.prior: weights[1]": (
        "", '\n[policy]\nprior = {kind = "weights", weights = [1, -1]}'
    ),
    "policy.prior: weights must not all": (
        "", '\n[policy]\nprior = {kind = "weights", weights = [0, 0, 0, 0, 0, 0, 0, 0]}'
    ),
    "policy.prior.weights: give 8": ("", '\n[policy]\nprior = {kind = "weights", weights = [1, 2]}'),
    "policy: references must be true for stitching": ("", '\n[policy]\ninterim_method = "stitch"'),
    "policy.stitch: epsilon must be a number above 0": ("", "\n[policy]\nstitch = {epsilon = inf}"),
    "policy.stitch.min_points: 8 blocks have 7 before the last": (
        "", '\n[policy]\ninterim_method = "stitch"\nreferences = true'
    ),
    "policy.final_method": ("", '\n[policy]\nfinal_method = "magic"\naccept_empirical = true'),
    "policy.interim_method": ("", '\n[policy]\ninterim_method = "replay"'),
    "policy.when_gate_fails": ("", '\n[policy]\nwhen_gate_fails = "retry"'),
    "execution.dtype": ("", '\n[execution]\ndtype = "float16"'),
}  # fmt: skip


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
    ("prior", "weights"),
    [
        ('{kind = "recency", half_life_blocks = 1}', [2.0**-k for k in range(7, -1, -1)]),
        ('{kind = "hot_share", deletion_share = 0.8, block_share = 0.25}', [0.2 / 6] * 6 + [0.4] * 2),
        ('{kind = "weights", weights = [0, 1, 2, 3, 4, 5, 6, 7]}', [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_prior_is_read_from_the_policy(tmp_path: Path, prior: str, weights: list[float]) -> None:
    _, policy = read_recipe(written(tmp_path, f"{GOOD}\n[policy]\nprior = {prior}"))
    assert policy.prior.block_weights(8) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks = 8", "blocks = 9"),
        ("blocks = 8", "blocks = 8\nhot_cuts = [0.5]\nhot_blocks = [2]"),
        ("batch_size = 16", "batch_size = 17"),
        ("batch_size = 16", "batch_size = 16\nshards = 2"),
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


SHARDED = GOOD.replace("batch_size = 16", "batch_size = 16\nshards = 3")
VOTING = SHARDED.replace("[data]", 'combine = "vote"\n[data]')


def test_the_rule_that_combines_is_in_the_digest_and_the_default_one_changes_no_recipe(
    tmp_path: Path,
) -> None:
    mean, _ = read_recipe(written(tmp_path, SHARDED))
    said, _ = read_recipe(written(tmp_path, SHARDED.replace("[data]", 'combine = "mean"\n[data]')))
    vote, _ = read_recipe(written(tmp_path, VOTING))
    assert mean.digest() == said.digest() != vote.digest()
    plain, _ = read_recipe(written(tmp_path, GOOD))
    # The digest that models of such a recipe stand with: `train` finds them by it.
    assert plain.digest() == "b26ef349ca121349a678e992dbadc0cdf8a6832963a018b3960f988d01f6bd72"


@pytest.mark.parametrize("text", [GOOD, SHARDED, VOTING])
def test_a_stored_recipe_is_the_one_that_was_read(tmp_path: Path, text: str) -> None:
    recipe, _ = read_recipe(written(tmp_path, text))
    assert recipe_from_json(recipe.to_json()) == recipe


def test_a_plan_without_cuts_is_stored_and_hashed_as_before_there_were_any(tmp_path: Path) -> None:
    recipe, _ = read_recipe(written(tmp_path, GOOD))
    assert not {"hot_cuts", "hot_blocks"} & set(recipe.to_json()["plan"])
    assert recipe.digest() == "b26ef349ca121349a678e992dbadc0cdf8a6832963a018b3960f988d01f6bd72"
    hot, _ = read_recipe(
        written(tmp_path, GOOD.replace("blocks = 8", "blocks = 8\nhot_cuts = [0.5, 2]\nhot_blocks = [2, 1]"))
    )
    assert recipe_from_json(hot.to_json()) == hot
    assert (hot.plan.hot_cuts, hot.plan.bands) == ((0.5, 2.0), [range(5), range(5, 7), range(7, 8)])
