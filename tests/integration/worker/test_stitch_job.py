"""A stitching job against the method written down a second time, from straight runs that keep every state."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.domain.errors import GateFailed, HandedOver
from app.domain.policy import StitchRule
from app.domain.status import Guarantee, JobKind, VersionStatus
from app.domain.terms import DEFAULT_TENANT, Claim
from app.services.checkpoint import find_checkpoints
from app.services.claim import fail
from models_store.manifest import Manifest
from models_store.tensors import unpack
from tests.integration.worker.conftest import NewLab
from tests.support.trained import MANY_LONERS, Lab, few_digits, recipe_of
from worker.context import JobContext
from worker.steps.unlearn import unlearn
from worker.traces import draw, lines_of, trace_of
from worker.training.factory import build_net
from worker.training.state import NET_PREFIX
from worker.unlearners import stitch
from worker.unlearners import stitching as stitching_of_a_shard
from worker.unlearners.decay import Ruling, rule_on
from worker.unlearners.replay import ResumePoint, keys_of
from worker.unlearners.stitch import NORM_RECORDS
from worker.unlearners.stitching import estimate_batch_norm

NUM_BLOCKS, EPOCHS = 24, 6
EAGER = {"epsilon": 1e6, "min_points": 8, "min_r_squared": 0.0}
NEVER = {"epsilon": 1e-300, "min_points": 8, "min_r_squared": 1.0}
States = list[dict[str, Tensor]]


def stitching(
    new_lab: NewLab,
    *,
    net: str = "mlp",
    rule: dict[str, Any] = EAGER,
    min_present: int = 1,
    epochs: int = EPOCHS,
    **policy: object,
) -> Lab:
    """Return a model of many small blocks, trained with plain SGD, whose interim method stitches.

    Accuracy on so few records may fall by any share; only a class that collapses is still refused.
    """
    wanted: dict[str, object] = {
        "interim_method": "stitch", "references": True, "stitch": rule, "max_drop": 1.0,
    }  # fmt: skip
    recipe = recipe_of(net, "sgd", blocks=NUM_BLOCKS, epochs=epochs, min_present=min_present)
    lab = new_lab(recipe, source=few_digits(MANY_LONERS), **{**wanted, **policy})
    lab.work()
    return lab


def interim(lab: Lab, *subjects: str) -> Claim:
    """Delete subjects and claim the interim job."""
    for subject in subjects:
        lab.world.sealed(subject)
    claim = lab.claim()
    assert claim is not None
    assert claim.kind is JobKind.INTERIM
    return claim


def unlearned(lab: Lab, claim: Claim) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Run a job up to its gates; return the trace of its only shard, and the weights that it made."""
    context = lab.advance(claim, until="verify")
    (blob,) = context.output_of("unlearn")["constituents"]
    tensors, _ = unpack(lab.own.store.get(blob))
    (trace,) = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    return trace, {n.removeprefix(NET_PREFIX): t for n, t in tensors.items() if n.startswith(NET_PREFIX)}


def states(lab: Lab, *, without: tuple[str, ...] = ()) -> States:
    """Return the parameters after every block of a straight run."""
    found: States = []
    lab.straight(
        without=without,
        after_block=lambda _, state: found.append(
            {name: p.detach().clone() for name, p in state.net.named_parameters()}
        ),
    )
    return found


def expected_stop(full: States, own: States, *, touched: list[int], rule: StitchRule) -> int | None:
    """Return after which block the method stops."""
    residuals: list[float] = []
    for k in range(touched[-1], NUM_BLOCKS):
        parts = [
            ((full[k][n].double() - full[k - 1][n].double()) - (own[k][n].double() - own[k - 1][n].double()))
            .abs()
            .sum()
            for n in full[k]
        ]
        residuals.append(float(torch.stack(parts).sum()))
        if rule_on(residuals, rule).stops and k < NUM_BLOCKS - 1:
            return k
    return None


def stitched(full: States, own: States, *, after: int | None) -> dict[str, Tensor]:
    """Return what a stitch after a block gives; without one the retraining's own end."""
    if after is None:
        return own[-1]
    return {
        name: (tensor.double() + (full[-1][name].double() - full[after][name].double())).float()
        for name, tensor in own[after].items()
    }


def missing_references(lab: Lab) -> set[int]:
    """Return the blocks after which no weights were kept."""
    missing = set(range(NUM_BLOCKS))
    for row in lab.checkpoints:
        if row.role == "reference":
            tensors, _ = unpack(lab.own.store.get(row.digest))
            missing -= {int(name.split(".", 1)[0]) for name in tensors}
        elif row.role in ("policy", "final"):
            missing.discard(row.position)
    return missing


def positions_kept(lab: Lab) -> list[int]:
    """Return the blocks after which weights are kept to stay, once for every blob that holds them."""
    kept: list[int] = []
    for digest, row in {row.digest: row for row in lab.checkpoints}.items():
        if row.role == "reference":
            tensors, _ = unpack(lab.own.store.get(digest))
            kept += {int(name.split(".", 1)[0]) for name in tensors}
        elif row.role in ("policy", "final"):
            kept.append(row.position)
    return sorted(kept)


def early(lab: Lab) -> list[str]:
    """Return subjects whose block comes early enough for a stop, in the order of their blocks."""
    places = {name: next(iter(own)) for name, own in lab.blocks.items()}
    known = [name for name, block in places.items() if block is not None and 1 <= block < NUM_BLOCKS - 12]
    return sorted(known, key=lambda name: places[name] or 0)


def who_stops(lab: Lab, *, rule: dict[str, Any] = EAGER) -> tuple[str, int]:
    """Return somebody for whom the method stops, and after which block."""
    full = states(lab)
    for person in early(lab):
        touched = [block for block in lab.blocks[person] if block is not None]
        own = states(lab, without=(person,))
        stop = expected_stop(full, own, touched=touched, rule=StitchRule(**rule))
        if stop is not None:
            return person, stop
    raise AssertionError("nobody's residual memory decays")


def of_two_blocks(lab: Lab) -> tuple[str, str]:
    """Return somebody of an early block, and somebody of another one behind it."""
    first = early(lab)[0]
    return first, next(name for name in early(lab) if lab.blocks[name] != lab.blocks[first])


@pytest.mark.parametrize("placement", ["sqrt", "all"])
def test_it_makes_the_retrained_weights_plus_what_the_last_exact_run_did_from_there(
    new_lab: NewLab, placement: str
) -> None:
    lab = stitching(new_lab, checkpoints=placement)
    person, stop = who_stops(lab)
    full, own = states(lab), states(lab, without=(person,))
    measured, found = unlearned(lab, interim(lab, person))
    assert measured["stopped_after"] == stop
    assert measured["num_blocks"] == stop - measured["resumed_after"]
    wanted = stitched(full, own, after=stop)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not all(torch.equal(found[name], tensor) for name, tensor in own[-1].items())


def test_several_deletions_are_one_stitch_against_the_last_exact_run(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    first, second = of_two_blocks(lab)
    full, own = states(lab), states(lab, without=(first, second))
    touched = sorted({block for name in (first, second) for block in lab.blocks[name] if block is not None})
    assert len(touched) == 2
    measured, found = unlearned(lab, interim(lab, first, second))
    assert measured["touched"] == touched
    stop = expected_stop(full, own, touched=touched, rule=StitchRule(**EAGER))
    assert measured["stopped_after"] == stop
    wanted = stitched(full, own, after=stop)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_an_interim_version_is_not_what_the_next_one_is_stitched_to(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER)
    first, second = of_two_blocks(lab)
    lab.finish(interim(lab, first))
    assert lab.versions[-1].guarantee == Guarantee.EMPIRICAL
    lab.world.sealed(second)
    settle, again = lab.claim(), lab.claim()
    assert settle is not None
    assert again is not None
    assert again.kind is JobKind.INTERIM
    touched = sorted({block for name in (first, second) for block in lab.blocks[name] if block is not None})
    measured, found = unlearned(lab, again)
    assert measured["touched"] == touched
    wanted = states(lab, without=(first, second))[-1]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_fit_that_never_holds_replays_to_the_end_where_it_is_exact(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER)
    person = early(lab)[0]
    expected = lab.straight_digest(without=[person])
    claim = interim(lab, person)
    lab.finish(claim)
    (measured,) = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    assert (measured["stopped_after"], lab.version.weights_digest) == (None, expected)
    assert len(measured["residuals"]) == NUM_BLOCKS - measured["touched"][0]


def test_without_references_it_replays_to_the_end(new_lab: NewLab) -> None:
    lab = stitching(new_lab, interim_method=None, references=False)
    person = early(lab)[0]
    expected = lab.straight_digest(without=[person])
    lab.set_policy(interim_method="stitch", references=True)  # too late for the training that was
    claim = interim(lab, person)
    lab.finish(claim)
    (measured,) = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    assert (measured["stopped_after"], lab.version.weights_digest) == (None, expected)
    assert "were not kept" in measured["why"]


def test_running_statistics_are_estimated_anew(new_lab: NewLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_eight(residuals: list[float], _rule: StitchRule) -> Ruling:
        return Ruling(stops=len(residuals) == 8, why="told to")

    monkeypatch.setattr(stitching_of_a_shard, "rule_on", stop_at_eight)
    lab = stitching(new_lab, net="lenet5_batch_norm", min_present=2, epochs=2)
    person = early(lab)[0]
    (block,) = (b for b in lab.blocks[person] if b is not None)
    stop = block + 7
    own: list[dict[str, Tensor]] = []
    lab.straight(
        without=(person,),
        after_block=lambda _, state: own.append({n: b.clone() for n, b in state.net.named_buffers()}),
    )
    claim = interim(lab, person)
    measured, found = unlearned(lab, claim)
    assert measured["stopped_after"] == stop
    # Plain averages over what the stitched layers see of the newest retained records.
    context = JobContext(lab.own, claim)
    loader = context.loader(context.retained(covers=1))
    newest = [loader.block(0, block).inputs for block in reversed(range(NUM_BLOCKS))]
    assert sum(map(len, newest)) < NORM_RECORDS  # all of them, in so small a world
    wanted = build_net(context.recipe, shard=0, device=context.device)
    wanted.load_state_dict(found)
    estimate_batch_norm(wanted, [inputs for inputs in newest if len(inputs) > 1])
    estimated = {name: buffer for name, buffer in wanted.named_buffers() if "running" in name}
    assert estimated
    assert all(torch.equal(found[name], buffer) for name, buffer in estimated.items())
    assert not any(torch.equal(found[name], own[stop][name]) for name in estimated)


def test_a_stitch_that_resumed_from_a_state_that_met_the_person_is_refused(
    new_lab: NewLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = stitching(new_lab, checkpoints="all")
    person, _ = who_stops(lab)
    (block,) = (b for b in lab.blocks[person] if b is not None)

    def late(job: object, *, shard: int, keys: list[str], touched: object) -> tuple[ResumePoint, bool]:
        (found,) = find_checkpoints(lab.own.sessions, lab.model_id, keys=kept, covers=0, store=lab.own.store)
        return ResumePoint(found.position, found), True

    kept = [row.key for row in lab.checkpoints if row.role == "policy" and row.position == block]
    monkeypatch.setattr(stitch, "_resume", late)
    with pytest.raises(GateFailed, match="lineage"):
        lab.finish(interim(lab, person))


def test_a_person_met_at_the_end_leaves_no_block_to_reuse(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    person = next(name for name, own in lab.blocks.items() if own == {NUM_BLOCKS - 8})
    measured, _ = unlearned(lab, interim(lab, person))
    ruling = rule_on(measured["residuals"], StitchRule(**EAGER))
    assert measured["stopped_after"] is None
    assert measured["why"] == ("no block is left to reuse" if ruling.stops else ruling.why)


def test_what_is_not_finite_is_shown_as_nothing(new_lab: NewLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = stitching(new_lab)
    person = early(lab)[0]
    measure, seen = stitching_of_a_shard.residual_memory, iter(range(10**6))

    def broken(*weights: Any, **own: Any) -> float:
        return math.nan if next(seen) == 2 else measure(*weights, **own)

    monkeypatch.setattr(stitching_of_a_shard, "residual_memory", broken)
    claim = interim(lab, person)
    lab.finish(claim)
    (trace,) = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    residuals = trace["residuals"]
    assert isinstance(residuals, list)
    assert [number is None for number in residuals].count(True) == 1
    assert "not finite" in str(trace["why"])
    draw(trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT), lab.own.settings.home / "trace.png")


def test_nothing_resumes_from_a_stitched_state(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    person, _ = who_stops(lab)
    context = lab.advance(interim(lab, person), until="verify")
    made = context.output_of("unlearn")["constituents"]
    assert made
    assert not {row.digest for row in lab.checkpoints} & set(made)


def test_nothing_resumes_from_references(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    found = {row.role: row.key for row in lab.checkpoints}
    context = JobContext(lab.own, lab.settle_claim(early(lab)[0]))
    keys = keys_of(context, context.retained(covers=0), 0)
    assert found["policy"] in keys
    assert found["reference"] not in keys


def test_what_saw_the_person_goes_with_the_exact_version_and_references_are_whole_again(
    new_lab: NewLab,
) -> None:
    lab = stitching(new_lab)
    size = sum(lab.own.store.size(digest) for digest in lab.own.store.digests())
    people = early(lab)[:3]
    context = lab.advance(interim(lab, people[0]), until="verify")
    with suppress(GateFailed):  # on so few records a class may be lost: the exact version comes all the same
        lab.finish(context.claim)
    lab.set_policy(interim_method=None)
    lab.work()
    for person in people[1:]:
        lab.forget(person)
        assert not missing_references(lab)
    assert lab.audit().is_equal
    grown = sum(lab.own.store.size(digest) for digest in lab.own.store.digests())
    assert grown < 1.05 * size
    assert {row.status for row in lab.versions[:-1]} == {VersionStatus.PURGED}


def test_a_row_of_deletions_leaves_the_weights_after_every_block_once(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    assert positions_kept(lab) == list(range(NUM_BLOCKS))
    people = early(lab)
    # Back and forth: each run cuts its packs elsewhere, and what the last one left is good up to the person.
    for number in (4, 0, 5, 1, 3):
        claim = interim(lab, people[number])
        if number % 2:
            lab.finish(lab.advance(claim, until="verify").claim)
        else:  # what a job that its gates refused has left behind serves as well
            refused = lab.advance(claim, until="verify").claim
            fail(lab.own.sessions, refused, error="refused", is_retryable=False, store=lab.own.store)
        lab.work()
        assert positions_kept(lab) == list(range(NUM_BLOCKS))
    assert lab.audit().is_equal


def checks_of(lab: Lab, number: int) -> dict[str, Any]:
    """Return the evidence of a version whose bytes are there."""
    version = next(row for row in lab.versions if row.number == number)
    manifest = Manifest.from_bytes(lab.own.store.get(version.manifest_digest))
    checks: dict[str, Any] = json.loads(lab.own.store.get(manifest.evidence))["checks"]
    return checks


def test_the_exact_version_says_how_far_the_interim_one_was_off(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER)  # it runs to its end, so it is not off at all
    person = early(lab)[0]
    full, own = states(lab), states(lab, without=(person,))
    lab.finish(interim(lab, person))
    assert lab.versions[-1].guarantee == Guarantee.EMPIRICAL
    figures = checks_of(lab, lab.work().number)["interim_error"]["figures"]
    nothing = sum(float((w.double() - own[-1][n].double()).abs().sum()) for n, w in full[-1].items())
    assert figures == {
        "interim_version": 2,
        "l1_interim_to_exact": 0.0,
        "l1_original_to_exact": pytest.approx(nothing, rel=1e-12),
    }
    assert nothing > 0


def test_a_training_that_was_handed_over_leaves_no_gap_in_its_references(new_lab: NewLab) -> None:
    lab = new_lab(recipe_of("mlp", "sgd", blocks=NUM_BLOCKS), references=True)
    claim = lab.claim()
    assert claim is not None
    going = lab.advance(claim, until="unlearn")
    asked = iter([False] * 6 + [True] * 2)
    stopping = JobContext(lab.own, going.claim, should_stop=lambda: next(asked))
    with pytest.raises(HandedOver):
        unlearn(stopping)
    assert {row.role for row in lab.checkpoints} >= {"rolling", "reference"}
    lab.finish(going.claim)
    assert not missing_references(lab)


def test_the_evidence_and_the_picture_show_the_trace(new_lab: NewLab, tmp_path: Path) -> None:
    lab = stitching(new_lab, rule=NEVER)
    claim = interim(lab, early(lab)[0])
    lab.finish(claim)
    version = lab.versions[-1]
    assert (version.guarantee, version.method) == (Guarantee.EMPIRICAL, "stitch")
    checks = checks_of(lab, version.number)
    found = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    assert checks["stitching"]["figures"]["shards"] == found
    assert "block" in lines_of(found)[0]
    assert " for epsilon 1e-300, R² " in lines_of(found)[0]
    draw(found, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
