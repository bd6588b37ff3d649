"""A gradient job against the same course run by hand, from the weights and the records as they are stored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.db.models import exact_ancestor
from app.db.records import forgotten_records, retained_records
from app.db.session import reading
from app.domain.errors import GateFailed, HandedOver, PolicyRefused
from app.domain.methods import SfronSettings
from app.domain.status import JobKind, VersionStatus
from app.domain.terms import DEFAULT_TENANT, Claim
from app.services.change_policy import change_policy
from models_store.manifest import Manifest
from models_store.tensors import unpack
from tests.integration.worker.conftest import NewLab
from tests.support.trained import Lab, recipe_of
from worker.context import JobContext
from worker.data.records import table_from_rows
from worker.steps.refuse import go_on_after
from worker.steps.unlearn import unlearn
from worker.traces import draw, lines_of, trace_of
from worker.training.factory import build_net
from worker.training.state import weights
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course

# Mild, so that no class is lost on so few records: the gates would refuse that.
QUICK: dict[str, Any] = {"cycles": 6, "batch_size": 16, "clip": 0.5, "lift": 0.1, "stops": False}
SETTINGS = SfronSettings(**QUICK)
Weights = dict[str, Tensor]


def treating(new_lab: NewLab, *, shards: int = 1, final: bool = False, **policy: object) -> Lab:
    """Return a trained model whose interim or final method is SFR-on with a few cycles."""
    own = {"final_method": "sfron", "accept_empirical": True} if final else {"interim_method": "sfron"}
    recipe = recipe_of("mlp", "momentum", shards=shards, epochs=8)
    lab = new_lab(recipe, **{**own, "methods": {"sfron": QUICK}, "max_drop": 1.0, **policy})
    lab.work()
    return lab


def claim_of(lab: Lab, kind: JobKind, *subjects: str) -> Claim:
    for subject in subjects:
        lab.world.sealed(subject)
    claim = lab.claim()
    assert claim is not None
    assert claim.kind is kind
    return claim


def served(lab: Lab, number: int) -> tuple[Manifest, list[Weights]]:
    version = next(row for row in lab.versions if row.number == number)
    manifest = Manifest.from_bytes(lab.own.store.get(version.manifest_digest))
    return manifest, [unpack(lab.own.store.get(file.digest))[0] for file in manifest.constituents]


def by_hand(lab: Lab, context: JobContext, *, shard: int = 0) -> Weights:
    """Return one constituent of the last exact version after the course, run in one go."""
    with reading(lab.own.sessions) as session:
        exact = exact_ancestor(session, lab.model_id)
        assert exact is not None
        covers = lab.model.num_sealed
        gone = table_from_rows(
            forgotten_records(session, lab.model, above=exact.settled, covers=covers)
        ).training()
        kept = table_from_rows(retained_records(session, lab.model, covers=covers))
        number = exact.number
    training = kept.training()
    tables = {
        Side.FORGET: gone.chosen((gone.shard_N == shard).nonzero()[0]),
        Side.RETAIN: training.chosen((training.shard_N == shard).nonzero()[0]),
        Side.HELD_OUT: kept.held_out(),
    }
    sides = {
        side: TensorRecords(*context.loader(table, reads_all=False).select(table))
        for side, table in tables.items()
    }
    net = build_net(context.recipe, shard=shard, device=context.device)
    net.load_state_dict(served(lab, number)[1][shard])
    seed = _course_shown(context, shard=shard)["seed"]
    work = METHODS["sfron"].prepare(Task(net, sides, num_classes=10, seed=seed), SETTINGS).work
    assert isinstance(work, Course)
    run_course(begin(net, work), work, sides, seed=seed)
    return weights(net)


def _course_shown(context: JobContext, *, shard: int) -> dict[str, Any]:
    shown: Sequence[dict[str, Any]] = context.output_of("unlearn")["course"]  # type: ignore[assignment]
    return next(each for each in shown if each["shard"] == shard)


def assert_equal(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interim_job_publishes_the_course_as_empirical_with_its_settings_and_figures(
    new_lab: NewLab,
) -> None:
    lab = treating(new_lab)
    context = lab.advance(claim_of(lab, JobKind.INTERIM, *lab.families[:2]), until="verify")
    expected = by_hand(lab, context)
    lab.finish(context.claim)
    manifest, (found,) = served(lab, 2)
    assert_equal(found, expected)
    assert (manifest.guarantee, manifest.method) == ("empirical", "sfron")
    assert manifest.settings is not None
    assert {name: manifest.settings[name] for name in QUICK} == QUICK
    assert manifest.settings["power"] == SfronSettings().power
    (shown,) = json.loads(lab.own.store.get(manifest.evidence))["checks"]["course"]["figures"]["shards"]
    assert shown["num_cycles"] == QUICK["cycles"]
    assert shown["masked_drift"] == 0.0
    assert shown["phases"]["forget"]["num_steps"] == shown["num_cycles"]
    trace = trace_of(lab.own, context.claim.job_id, tenant=DEFAULT_TENANT)
    assert trace == [shown]
    head, *others = lines_of(trace)
    assert head.endswith(f"; {QUICK['cycles']} cycles, up to a bound in its settings")
    starts = [*(f"  {phase}" for phase in shown["phases"]), *("  warning" for _ in shown["warnings"])]
    assert sorted(line.split(":")[0] for line in others) == sorted(starts)
    with pytest.raises(ValueError, match="treated with gradients"):
        draw(trace, Path("trace.png"))


def test_what_a_refused_course_showed_is_kept(new_lab: NewLab) -> None:
    lab = treating(new_lab, final=True)
    context = lab.advance(claim_of(lab, JobKind.SETTLE, lab.families[0]), until="verify")
    before = trace_of(lab.own, context.claim.job_id, tenant=DEFAULT_TENANT)
    claim = go_on_after(context, GateFailed("utility: for this test"))
    assert context.output_of("unlearn") == {}
    assert trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT) == before
    lab.finish(claim)
    assert [row.guarantee for row in lab.versions] == ["exact", "exact"]


def test_the_exact_version_takes_its_place(new_lab: NewLab) -> None:
    lab = treating(new_lab)
    assert lab.forget(lab.families[0]).number == 3
    assert [row.guarantee for row in lab.versions] == ["exact", "empirical", "exact"]
    assert lab.audit().is_equal
    assert [row.status for row in lab.versions[:-1]] == [VersionStatus.PURGED] * 2


def test_a_second_interim_job_treats_all_that_is_not_settled_from_the_exact_version(
    new_lab: NewLab,
) -> None:
    lab = treating(new_lab)
    first, second = lab.families[:2]
    lab.finish(claim_of(lab, JobKind.INTERIM, first))
    lab.world.sealed(second)
    claims = [lab.claim(), lab.claim()]
    again = next(claim for claim in claims if claim is not None and claim.kind is JobKind.INTERIM)
    context = lab.advance(again, until="verify")
    expected = by_hand(lab, context)
    lab.finish(context.claim)
    assert_equal(served(lab, 3)[1][0], expected)


def test_only_shards_that_somebody_is_forgotten_in_change(new_lab: NewLab) -> None:
    lab = treating(new_lab, shards=2)
    person = lab.in_shard(1)[0]
    before = served(lab, 1)[1]
    context = lab.advance(claim_of(lab, JobKind.INTERIM, person), until="verify")
    expected = by_hand(lab, context, shard=1)
    lab.finish(context.claim)
    after = served(lab, 2)[1]
    assert_equal(after[0], before[0])
    assert_equal(after[1], expected)


@pytest.mark.parametrize("num_cycles", [1, 4])
def test_a_job_that_is_handed_over_goes_on_to_the_same_bits(new_lab: NewLab, num_cycles: int) -> None:
    lab = treating(new_lab)
    claim = claim_of(lab, JobKind.INTERIM, *lab.families[:2])
    going = lab.advance(claim, until="unlearn")
    asked = iter([False] * (num_cycles - 1) + [True] * 2)
    with pytest.raises(HandedOver):
        unlearn(JobContext(lab.own, going.claim, should_stop=lambda: next(asked)))
    (kept,) = [row for row in lab.checkpoints if row.role == "rolling"]
    _, note = unpack(lab.own.store.get(kept.digest))
    assert note["cycle"] == num_cycles
    context = lab.advance(going.claim, until="verify")
    expected = by_hand(lab, context)
    assert _course_shown(context, shard=0)["num_cycles"] == QUICK["cycles"]
    lab.finish(context.claim)
    assert_equal(served(lab, 2)[1][0], expected)
    assert not [row for row in lab.checkpoints if row.role == "rolling"]


def test_what_a_course_keeps_on_its_way_is_nobodys_resume_point(new_lab: NewLab) -> None:
    lab = treating(new_lab)
    going = lab.advance(claim_of(lab, JobKind.INTERIM, lab.families[0]), until="unlearn")
    with pytest.raises(HandedOver):
        unlearn(JobContext(lab.own, going.claim, should_stop=lambda: True))
    settle = lab.claim()
    assert settle is not None
    assert settle.kind is JobKind.SETTLE
    lab.finish(settle)
    assert lab.audit().is_equal
    assert not [row for row in lab.checkpoints if row.role == "rolling"]  # purged with what saw the person


def test_a_course_that_was_overtaken_keeps_nothing_more(new_lab: NewLab) -> None:
    lab = treating(new_lab)
    going = lab.advance(claim_of(lab, JobKind.INTERIM, lab.families[0]), until="unlearn")
    settle = lab.claim()
    assert settle is not None
    looks = 0

    def overtaken() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            lab.finish(settle)
        return looks >= 3

    lab.finish_in(JobContext(lab.own, going.claim, should_stop=overtaken))
    assert [row.guarantee for row in lab.versions] == ["exact", "exact"]
    assert not [row for row in lab.checkpoints if row.role == "rolling"]
    assert lab.audit().is_equal


def test_as_the_final_method_it_settles_where_the_policy_accepts_that(new_lab: NewLab) -> None:
    lab = treating(new_lab, final=True)
    lab.forget(lab.families[0])
    version = lab.versions[-1]
    assert (version.guarantee, version.method, version.status) == ("empirical", "sfron", "published")
    assert lab.versions[0].status == VersionStatus.PURGED


def test_weights_that_cannot_be_used_are_refused_and_replay_follows(new_lab: NewLab) -> None:
    wild = {**QUICK, "retain": {"learning_rate": 1e30}}
    lab = treating(new_lab, final=True, methods={"sfron": wild})
    lab.forget(lab.families[0])
    assert lab.versions[-1].guarantee == "exact"
    assert lab.audit().is_equal


def test_a_method_that_does_not_fit_the_net_is_refused_and_replay_follows(new_lab: NewLab) -> None:
    recipe = recipe_of("mlp", "momentum")
    flat = recipe.model.model_copy(update={"arguments": {**recipe.model.arguments, "hidden": []}})
    lab = new_lab(
        recipe.model_copy(update={"model": flat}), final_method="lora_residual", accept_empirical=True
    )
    lab.work()
    lab.forget(lab.families[0])
    assert lab.versions[-1].guarantee == "exact"
    assert lab.audit().is_equal


def test_an_interim_job_with_unusable_weights_publishes_nothing(new_lab: NewLab) -> None:
    wild = {**QUICK, "retain": {"learning_rate": 1e30}}
    lab = treating(new_lab, methods={"sfron": wild})
    claim = claim_of(lab, JobKind.INTERIM, lab.families[0])
    with pytest.raises(GateFailed, match=r"^shard 0: (forget|retain), cycle "):
        lab.finish(claim)
    assert len(lab.versions) == 1


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ({"sfron": {"cycels": 3}}, r"^methods\.sfron\.cycels: unknown field"),
        ({"sfron": {"cycles": 0}}, r"^methods\.sfron\.cycles must lie between"),
        (
            {"sfron": {"forget": {"learning_rate": "fast"}}},
            r"^methods\.sfron\.forget\.learning_rate: must be",
        ),
        ({"sfron": {"preset": []}}, r"^methods\.sfron\.preset: choose one of released"),
        ({"sfron": {"clip": 10**400}}, r"^methods\.sfron\.clip: is too large"),
        ({"sfron": {"lift": 8.0}}, r"^methods\.sfron\.lift must lie between"),
        ({"sfron": {"preset": "best"}}, r"^methods\.sfron\.preset: choose one of released"),
        ({"magic": {}}, r"^methods: choose one of "),
    ],
)
def test_wrong_settings_are_refused_by_name_and_nothing_changes(
    new_lab: NewLab, methods: dict[str, Any], complaint: str
) -> None:
    lab = treating(new_lab)
    before = lab.model.policy
    with pytest.raises(PolicyRefused, match=complaint):
        change_policy(lab.own.sessions, lab.model.name, {"methods": methods}, tenant=DEFAULT_TENANT)
    assert lab.model.policy == before
