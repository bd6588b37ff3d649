"""Models that were trained elsewhere: registered whole or not at all, and treated by gradients alone."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import func, select
from torch import Tensor

from app.db.records import forgotten_records, retained_records
from app.db.session import reading
from app.db.tables import Blob, Job, Placement, Table, Target
from app.domain.errors import GateFailed, HandedOver, NameTaken, NotFound, PolicyRefused, Refused
from app.domain.methods import SfronSettings
from app.domain.status import JobKind, Outcome, TargetStatus, VersionStatus
from app.domain.terms import DEFAULT_TENANT, DatasetId
from app.services.change_policy import change_policy
from app.settings import Settings
from models_store.blobs import BlobStore, Digest
from models_store.errors import BlobNotWritten, TensorFileRefused
from models_store.manifest import Manifest
from models_store.tensors import tensor_digest, unpack
from tests.support.outside import QUICK, QUICK_POLICY, outside_recipe, save_outside
from tests.support.trained import Lab
from tests.support.world import World
from worker.auditing import audit
from worker.checking import require_trained_here
from worker.context import JobContext
from worker.data.records import table_from_rows
from worker.installation import Installation, open_installation
from worker.registering import register
from worker.steps.unlearn import unlearn
from worker.training.factory import build_net
from worker.training.recipe import RecipeRefused
from worker.training.registered import RegisteredRecipe
from worker.training.state import weights as weights_of
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course

Weights = dict[str, Tensor]


@pytest.fixture
def bare(imported_home: Path, tmp_path: Path) -> Iterator[Installation]:
    shutil.copytree(imported_home, tmp_path / "bare")
    own = open_installation(Settings(home=tmp_path / "bare"))
    yield own
    own.engine.dispose()


@pytest.fixture
def lab(registered_home: Path, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab.copied(registered_home, to=tmp_path / "lab")
    yield lab
    lab.close()


def served(lab: Lab, number: int) -> tuple[Manifest, Weights]:
    version = next(row for row in lab.versions if row.number == number)
    manifest = Manifest.from_bytes(lab.own.store.get(Digest(version.manifest_digest)))
    (file,) = manifest.constituents
    return manifest, unpack(lab.own.store.get(file.digest))[0]


def evidence(lab: Lab, number: int) -> dict[str, Any]:
    manifest, _ = served(lab, number)
    found: dict[str, Any] = json.loads(lab.own.store.get(manifest.evidence))["checks"]
    return found


def by_hand(lab: Lab, context: JobContext, start: Weights, *, above: int) -> Weights:
    """Return weights after the course, run in one go for the tombstones above a number."""
    covers = lab.model.num_sealed
    with reading(lab.own.sessions) as session:
        gone = table_from_rows(forgotten_records(session, lab.model, above=above, covers=covers)).training()
        kept = table_from_rows(retained_records(session, lab.model, covers=covers))
    tables = {Side.FORGET: gone, Side.RETAIN: kept.training(), Side.HELD_OUT: kept.held_out()}
    sides = {
        side: TensorRecords(*context.loader(table, reads_all=False).select(table))
        for side, table in tables.items()
    }
    net = build_net(context.net_recipe, shard=0, device=context.device)
    net.load_state_dict(start)
    (shown,) = context.output_of("unlearn")["course"]  # type: ignore[misc, union-attr]
    seed = shown["seed"]  # type: ignore[call-overload, index]
    work = METHODS["sfron"].prepare(Task(net, sides, 10, seed), SfronSettings(**QUICK)).work
    assert isinstance(work, Course)
    run_course(begin(net, work), work, sides, seed=seed)
    return weights_of(net)


def treat(lab: Lab, subject: str, start: Weights, *, above: int) -> Weights:
    """Delete a subject from the model and return what the served version must be, from these weights on."""
    lab.world.sealed(subject, models=["outside"])
    context = lab.advance(lab.settle_claim(), until="verify")
    expected = by_hand(lab, context, start, above=above)
    lab.finish(context.claim)
    lab.work()
    return expected


def assert_equal(first: Weights, second: Weights) -> None:
    assert tensor_digest(first) == tensor_digest(second)


def held_out_person(lab: Lab) -> str:
    return lab.in_block(None)[0]


def blobs(lab: Lab, number: int) -> set[str]:
    """Return the digests of a version's files and of its manifest."""
    version = next(row for row in lab.versions if row.number == number)
    return {version.manifest_digest, *(file["digest"] for file in version.manifest["files"])}


def state_of(own: Installation) -> tuple[dict[str, int], list[str]]:
    """Return how many rows there are by table, and every file of the installation outside the database."""
    with reading(own.sessions) as session:
        counts = {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Table.metadata.sorted_tables
        }
    files = [str(path) for path in sorted(own.settings.home.rglob("*")) if path.is_file()]
    return counts, [path for path in files if "expunge.db" not in path]


def test_version_1_is_what_was_handed_in_and_says_where_it_is_from(
    lab: Lab, outside_weights: Weights
) -> None:
    manifest, found = served(lab, 1)
    assert_equal(found, outside_weights)
    assert (manifest.guarantee, manifest.method, manifest.plan_key_id) == ("empirical", "register", "none")
    assert (manifest.covers, manifest.settled, manifest.parent) == (0, 0, None)
    assert manifest.environment["trained"] == "elsewhere"
    assert lab.version.number == 1
    checks = evidence(lab, 1)
    assert checks["as_served"]["holds"]
    assert checks["as_served"]["gates"]
    assert checks["utility"]["figures"]["after"]["retained"] > 0.9
    assert checks["origin"]["power"].startswith("none")
    with reading(lab.own.sessions) as session:
        assert session.query(Placement).count() == 0
        (job,) = session.query(Job)
        assert (job.kind, job.status) == (JobKind.REGISTER, "succeeded")


def test_a_deletion_is_treated_from_version_1_and_its_bytes_go(lab: Lab, outside_weights: Weights) -> None:
    original = blobs(lab, 1)
    expected = treat(lab, lab.families[0], outside_weights, above=0)
    manifest, found = served(lab, 2)
    assert_equal(found, expected)
    assert tensor_digest(found) != tensor_digest(outside_weights)
    assert (manifest.guarantee, manifest.method, manifest.covers, manifest.settled) == (
        "empirical", "sfron", 4, 0
    )  # fmt: skip
    assert [row.status for row in lab.versions] == [VersionStatus.PURGED, VersionStatus.PUBLISHED]
    assert not original & set(lab.own.store.digests())
    with reading(lab.own.sessions) as session:
        assert [(row.status, row.outcome) for row in session.query(Target)] == [("completed", "treated")]
        assert {row.digest for row in session.query(Blob)} == set(lab.own.store.digests())


def test_the_next_deletion_goes_on_from_the_newest_version_and_treats_only_who_is_new(
    lab: Lab, outside_weights: Weights
) -> None:
    first, second = lab.families[:2]
    after_first = treat(lab, first, outside_weights, above=0)
    expected = treat(lab, second, after_first, above=4)
    manifest, found = served(lab, 3)
    assert_equal(found, expected)
    assert (manifest.covers, manifest.settled) == (8, 0)
    assert [row.status for row in lab.versions[:-1]] == [VersionStatus.PURGED] * 2
    assert evidence(lab, 3)["chain"]["figures"] == {"num_treatments_before": 1, "base_covers": 4}
    (shown,) = evidence(lab, 3)["course"]["figures"]["shards"]
    assert shown["num_records"]["forget"] == 4 * QUICK["cycles"]


def test_who_was_treated_is_not_treated_again_even_while_the_records_are_still_there(
    lab: Lab, outside_weights: Weights
) -> None:
    lab.world.model("other", dataset=DatasetId(lab.dataset.id))  # was not asked to forget: the bytes remain
    first, second = lab.families[:2]
    lab.world.sealed(first, models=["outside"])
    lab.work()
    after_first = served(lab, 2)[1]
    assert first in lab.families
    expected = treat(lab, second, after_first, above=4)
    assert_equal(served(lab, 3)[1], expected)
    (shown,) = evidence(lab, 3)["course"]["figures"]["shards"]
    assert shown["num_records"]["forget"] == 4 * QUICK["cycles"]
    assert evidence(lab, 3)["person"]["figures"]["num_records"] == 4


def test_somebody_held_out_changes_no_weight_and_revokes_nothing(lab: Lab, outside_weights: Weights) -> None:
    request_id = lab.world.sealed(held_out_person(lab))
    lab.work()
    assert_equal(served(lab, 2)[1], outside_weights)
    assert [row.revoked_at for row in lab.versions] == [None, None]
    (target,) = lab.world.targets(request_id)
    assert (target.status, target.outcome) == (TargetStatus.COMPLETED, Outcome.ALREADY_COVERED)


def test_a_deletion_that_was_sealed_before_reaches_the_model(
    bare: Installation, outside_weights: Weights, tmp_path: Path
) -> None:
    world = World(sessions=bare.sessions, keyring=bare.keyring, store=bare.store)
    for number in range(8):
        world.sealed(f"family-{number}")
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    done = register(bare, outside_recipe(), QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT)
    lab = Lab(own=bare, model_id=done.model_id)
    lab.work()
    with reading(bare.sessions) as session:
        outcomes = {(row.status, row.outcome) for row in session.query(Target)}
    # Some are held out, by the draw of the keys: never met, so nothing was done.
    assert outcomes - {("completed", "already_covered")} == {("completed", "treated")}
    assert lab.version.covers == lab.model.num_sealed > 0


def refuse(own: Installation, recipe: RegisteredRecipe, path: Path, error: type[Exception]) -> str:
    """Register what must be refused, look that nothing is left, and return what is said."""
    before = state_of(own)
    with pytest.raises(error) as refused:
        register(own, recipe, QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT)
    assert state_of(own) == before
    return str(refused.value)


def test_weights_that_do_not_fit_leave_nothing_behind(
    bare: Installation, outside_weights: Weights, tmp_path: Path
) -> None:
    first, *_, last = sorted(outside_weights)
    broken = {**outside_weights, first: outside_weights[first][:-1], "extra": torch.zeros(1)}
    broken[last] = torch.full_like(broken[last], torch.nan)
    path = save_outside(broken, tmp_path / "broken.safetensors")
    said = refuse(bare, outside_recipe(), path, TensorFileRefused)
    for name, problem in {"extra": "unexpected", first: "shape", last: "holds NaN"}.items():
        assert f"tensor '{name}': {problem}" in said
    assert said.startswith(f"{path}: ")


def test_a_pickle_leaves_nothing_behind(bare: Installation, outside_weights: Weights, tmp_path: Path) -> None:
    torch.save(outside_weights, tmp_path / "weights.safetensors")
    said = refuse(bare, outside_recipe(), tmp_path / "weights.safetensors", TensorFileRefused)
    assert "a pickle" in said


@pytest.mark.parametrize(
    ("tables", "error", "complaint"),
    [
        ({"data": {"dataset": "nothing"}}, NotFound, "no dataset is called 'nothing'"),
        ({"data": {"dataset": "digits", "shape": [63]}}, RecipeRefused, "data.shape: "),
        ({"data": {"dataset": "digits", "scale": 1e38}}, RecipeRefused, "records with NaN or infinity"),
    ],
    ids=["dataset", "shape", "answers"],
)
def test_a_recipe_that_does_not_fit_the_data_leaves_nothing_behind(
    bare: Installation,
    outside_weights: Weights,
    tmp_path: Path,
    tables: dict[str, Any],
    error: type[Exception],
    complaint: str,
) -> None:
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    assert complaint in refuse(bare, outside_recipe(**tables), path, error)


def test_a_net_that_cannot_score_every_label_leaves_nothing_behind(
    bare: Installation, tmp_path: Path
) -> None:
    model = {"factory": "worker.training.nets:mlp", "arguments": {"in_features": 64, "num_classes": 9}}
    said = refuse(bare, outside_recipe(model=model), tmp_path / "nothing", RecipeRefused)
    assert "its output is [2, 9], and the labels need [2, 10]" in said


def test_where_records_were_erased_somebody_must_say_that_the_weights_never_met_them(
    lab: Lab, tmp_path: Path, outside_weights: Weights
) -> None:
    lab.forget(lab.families[0])
    path, second = save_outside(outside_weights, tmp_path / "w.safetensors"), outside_recipe(name="second")
    with pytest.raises(RecipeRefused, match=r"^data.dataset: 4 of its records were erased"):
        register(lab.own, second, QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT)
    done = register(
        lab.own, second, QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT, trained_without_erased=True
    )
    assert done.model_id != lab.model_id


def test_a_name_is_taken_once(lab: Lab, tmp_path: Path, outside_weights: Weights) -> None:
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    assert "'outside' stands already" in refuse(lab.own, outside_recipe(), path, NameTaken)


class FullStore(BlobStore):
    """Has room for one blob more."""

    num_left = 1

    def put(self, data: bytes) -> Digest:
        """Put the first one."""
        if not self.num_left:
            raise BlobNotWritten("the disk is full")
        self.num_left -= 1
        return super().put(data)


def test_a_store_that_is_full_halfway_leaves_nothing_behind(
    bare: Installation, outside_weights: Weights, tmp_path: Path
) -> None:
    store = FullStore(bare.settings.home / "store")
    full = replace(bare, store=store)
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    assert refuse(full, outside_recipe(), path, BlobNotWritten) == "the disk is full"
    assert store.num_left == 0


def test_weights_that_another_model_serves_survive_a_registration_that_fails(
    lab: Lab, outside_weights: Weights, tmp_path: Path
) -> None:
    full = replace(lab.own, store=FullStore(lab.own.settings.home / "store"))
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    refuse(full, outside_recipe(name="twin"), path, BlobNotWritten)
    assert_equal(served(lab, 1)[1], outside_weights)


def test_inputs_that_are_not_those_of_the_training_are_flagged(
    bare: Installation, outside_weights: Weights, tmp_path: Path
) -> None:
    recipe = outside_recipe(data={"dataset": "digits", "scale": 0.0})
    path = save_outside(outside_weights, tmp_path / "outside.safetensors")
    done = register(bare, recipe, QUICK_POLICY, weights=path, tenant=DEFAULT_TENANT)
    checks = evidence(Lab(own=bare, model_id=done.model_id), 1)
    assert not checks["fit"]["holds"]
    assert "data.scale" in checks["fit"]["problem"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"final_method": "replay"}, "final_method"),
        ({"final_method": "retrain"}, "final_method"),
        ({"final_method": "stitch"}, "final_method"),
        ({"interim_method": "sfron"}, "interim_method"),
        ({"accept_empirical": False}, "accept_empirical"),
        ({"when_gate_fails": "next"}, "when_gate_fails"),
        ({"checkpoints": "all"}, "checkpoints"),
    ],
)
def test_its_policy_stays_one_that_needs_no_plan(lab: Lab, changes: dict[str, object], field: str) -> None:
    before = lab.model.policy
    with pytest.raises(PolicyRefused, match=f"^{field}: "):
        change_policy(lab.own.sessions, "outside", changes, tenant=DEFAULT_TENANT)
    assert lab.model.policy == before


def test_another_gradient_method_may_take_over(lab: Lab) -> None:
    change_policy(
        lab.own.sessions,
        "outside",
        {"final_method": "finetune", "methods": {"finetune": {"epochs": 1}}},
        tenant=DEFAULT_TENANT,
    )
    lab.forget(lab.families[0])
    assert [row.method for row in lab.versions] == ["register", "finetune"]


def test_what_a_gate_refuses_is_not_published_and_nothing_is_trained_instead(lab: Lab) -> None:
    lab.set_policy(methods={"sfron": {**QUICK, "retain": {"learning_rate": 1e30}}})
    claim = lab.settle_claim(lab.families[0])
    with pytest.raises(GateFailed, match=r"^shard 0: "):
        lab.finish(claim)
    assert [row.number for row in lab.versions] == [1]


def test_a_job_that_is_handed_over_goes_on_to_the_same_bits(lab: Lab, outside_weights: Weights) -> None:
    going = lab.advance(lab.settle_claim(lab.families[0]), until="unlearn")
    asked = iter([False, True, True])
    with pytest.raises(HandedOver):
        unlearn(JobContext(lab.own, going.claim, should_stop=lambda: next(asked)))
    assert [row.role for row in lab.checkpoints] == ["rolling"]
    context = lab.advance(going.claim, until="verify")
    expected = by_hand(lab, context, outside_weights, above=0)
    lab.finish(context.claim)
    assert_equal(served(lab, 2)[1], expected)
    assert not lab.checkpoints


def test_every_version_is_measured_against_the_registered_model_too(lab: Lab) -> None:
    """Its accuracy outlives its bytes: along a row of treatments each version might fall a little."""
    first = evidence(lab, 1)["utility"]["figures"]["after"]
    with reading(lab.own.sessions) as session:
        outputs = session.query(Job).one().outputs
    assert outputs["register"]["accuracy"] == first
    for number, subject in enumerate(lab.families[:2], start=2):
        lab.forget(subject)
        assert evidence(lab, number)["utility"]["figures"]["at_first"] == first


def test_its_recipe_is_not_one_to_check_or_to_train(tmp_path: Path) -> None:
    path = tmp_path / "outside.toml"
    path.write_text('batch_size = 32\n[data]\ndataset = "digits"\n')
    with pytest.raises(RecipeRefused, match=r"outside\.toml: batch_size .* `expunge-worker register`"):
        require_trained_here(path)
    path.write_text('[data]\ndataset = "digits"\n')
    require_trained_here(path)


def test_nobody_can_train_it_again(lab: Lab) -> None:
    with pytest.raises(Refused, match="outside was trained elsewhere"):
        audit(lab.own, "outside", tenant=DEFAULT_TENANT, version="1")
