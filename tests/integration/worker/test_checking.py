"""What ``check`` says before any training: the cost of each placement, and what does not fit the data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from app.domain.policy import CheckpointPlacement, Policy
from app.domain.prior import DeletionPrior, PriorKind
from app.domain.terms import DEFAULT_TENANT
from app.settings import get_settings
from tests.integration.worker.conftest import NewLab
from tests.support.trained import Lab, recipe_of
from worker.checking import check, require_small_subjects
from worker.cli import app
from worker.training.recipe import PlanPart, RecipeRefused

RECIPE = """
name = "another"
[model]
factory = "worker.training.nets:mlp"
arguments = {in_features = 64, num_classes = 10}
[data]
dataset = "digits"
[plan]
blocks = 6
passes = 2
batch_size = 16
[optimizer]
name = "sgd"
learning_rate = 0.1
[policy]
checkpoints = "log"
prior = {kind = "weights", weights = WEIGHTS}
"""

Check = Callable[..., list[str]]


@pytest.fixture
def check_of(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Runs ``check`` on the recipe with these weights and returns its lines."""
    monkeypatch.setenv("EXPUNGE_HOME", str(lab.own.settings.home))
    monkeypatch.setenv("COLUMNS", "100")
    get_settings.cache_clear()

    def run(weights: str, *, change: tuple[str, str] = ("", "")) -> list[str]:
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.replace("WEIGHTS", weights).replace(*change))
        answer = CliRunner().invoke(app, ["check", str(path)])
        return (answer.stdout + answer.stderr).splitlines()

    yield run
    get_settings.cache_clear()


def test_check_prints_what_each_placement_keeps_and_costs(check_of: Check) -> None:
    lines = check_of("[0, 0, 0, 1, 0, 0]")
    rows = {line.split()[0]: line.replace("│", " ").split() for line in lines if line.strip()}
    # Deletions fall on block 3, and run the second pass as well. sqrt keeps the states after blocks 1 and 3,
    # log those after 1, 3 and 4, prior the one after 2 and any other; and all keep the end.
    kept = {name: int(rows[name][2 if name == "log" else 1]) for name in CheckpointPlacement}
    assert kept == {"all": 6, "sqrt": 2 + 1, "log": 3 + 1, "prior": 2 + 1}
    by_prior = {name: row[-3] for name, row in rows.items() if name in set(CheckpointPlacement)}
    assert by_prior == {"all": "9.0", "sqrt": "10.0", "log": "10.0", "prior": "9.0"}
    assert rows["log"][1] == "*"
    assert rows["sqrt"][-1] == "1"


@pytest.mark.parametrize(
    ("weights", "problem"),
    [("[1, 2]", "policy.prior.weights: give 6, one a block"), ("[0, 0, 0, 0, 0, -1]", "policy.prior: ")],
)
def test_a_prior_that_does_not_fit_is_refused_in_one_line(
    check_of: Check, weights: str, problem: str
) -> None:
    (line,) = check_of(weights)
    assert problem in line


def test_bytes_are_those_of_the_states_that_the_training_kept(lab: Lab) -> None:
    prior = DeletionPrior(kind=PriorKind.RECENCY, half_life_blocks=1)
    checked = check(lab.own, recipe_of(), Policy(prior=prior), tenant=DEFAULT_TENANT)
    by_name = {cost.placement: cost for cost in checked.placements}
    stored = [row.size for row in lab.checkpoints]
    assert by_name[CheckpointPlacement.ALL].num_checkpoints == len(stored) == 6
    assert by_name[CheckpointPlacement.ALL].num_bytes == pytest.approx(sum(stored), rel=0.01)
    cost = by_name[CheckpointPlacement.SQRT]
    assert checked.expected_replay_share == cost.num_blocks / 6
    assert cost.num_blocks_by_prior < cost.num_blocks


def test_references_count_where_the_policy_keeps_them(new_lab: NewLab) -> None:
    lab = new_lab(recipe_of(blocks=9), checkpoints="sqrt", references=True)
    lab.work()
    states = sum(row.size for row in lab.checkpoints if row.role != "reference")
    everything = sum(row.size for row in lab.checkpoints)

    def estimate(placement: CheckpointPlacement, policy: Policy) -> int:
        costs = check(lab.own, recipe_of(blocks=9), policy, tenant=DEFAULT_TENANT).placements
        return next(cost.num_bytes for cost in costs if cost.placement is placement)

    stitching = Policy(checkpoints=CheckpointPlacement.ALL, interim_method="stitch")
    assert estimate(CheckpointPlacement.SQRT, Policy()) == states
    # Each pack has a header besides, which counts beside so small a net.
    with_references = estimate(CheckpointPlacement.SQRT, Policy(references=True))
    assert states < with_references == pytest.approx(everything, rel=0.03)
    # What stitches from full checkpoints of every block needs none; with fewer checkpoints it would.
    assert estimate(CheckpointPlacement.ALL, stitching) == estimate(CheckpointPlacement.ALL, Policy())
    assert estimate(CheckpointPlacement.SQRT, stitching) == with_references


def test_cuts_over_data_without_likelihoods_are_refused(lab: Lab) -> None:
    recipe = recipe_of(hot_cuts=(0.5,), hot_blocks=(2,))
    with pytest.raises(RecipeRefused, match=r"^plan.hot_cuts: .* without a likelihood column"):
        check(lab.own, recipe, Policy(), tenant=DEFAULT_TENANT)


def test_a_likelihood_column_of_any_name_is_imported_and_its_ranges_are_printed(
    check_of: Check, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "people.npz",
        features=draw.random((120, 64), dtype=np.float32),
        labels=np.arange(120) % 10,
        risk=np.repeat([0.1, 0.7, 0.2, 0.9], 30),
    )
    command = ["import", str(tmp_path / "people.npz"), "--likelihood-column", "risk", "--held-out", "0"]
    assert CliRunner().invoke(app, command).exit_code == 0
    plan = 'dataset = "people"\n[plan]\nhot_cuts = [0.2, 0.8]\nhot_blocks = [2, 1]'
    lines = check_of("[1, 1, 1, 1, 1, 1]", change=('dataset = "digits"\n[plan]', plan))
    text = " ".join(" ".join(lines).replace("│", " ").split())
    assert (
        "below 0.2: 30 subjects, blocks 0 to 2; from 0.2: 60 subjects, blocks 3 to 4; "
        "from 0.8: 30 subjects, blocks 5 to 5" in text
    )


def records(subject: bytes, num: int, *, likelihood: float, spread: int = 1) -> list[SimpleNamespace]:
    return [SimpleNamespace(subject_ref=subject, spread=spread, likelihood=likelihood)] * num


def test_a_subject_is_measured_by_the_mean_block_of_its_own_range() -> None:
    plan = PlanPart(blocks=12, batch_size=1, hot_cuts=(1.0,), hot_blocks=(4,))
    cold = [row for n in range(100) for row in records(b"c%d" % n, 1, likelihood=0.0)]
    hot = records(b"h", 1, likelihood=2.0)
    require_small_subjects([*cold, *hot, *records(b"x", 20, likelihood=0.5)], plan)
    with pytest.raises(RecipeRefused, match=r"^plan.blocks: a subject has 40 records.* of 17.5"):
        require_small_subjects([*cold, *hot, *records(b"x", 40, likelihood=0.5)], plan)
    # The mean over the whole plan is 10.1; that of the last four blocks counts here.
    with pytest.raises(RecipeRefused, match=r"^plan.hot_blocks: a subject has 20 records.* of 5.2"):
        require_small_subjects([*cold, *hot, *records(b"x", 20, likelihood=1.0)], plan)
    require_small_subjects([*cold, *hot, *records(b"x", 20, likelihood=1.0, spread=2)], plan)
