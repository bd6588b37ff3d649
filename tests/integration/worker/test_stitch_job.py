"""A stitching job against the method written down a second time, from straight runs that keep every state."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.db.session import reading
from app.db.tables import Job
from app.domain.errors import HandedOver
from app.domain.policy import StitchRule
from app.domain.status import Guarantee, JobKind, VersionStatus
from app.domain.terms import DEFAULT_TENANT, Claim
from models_store.manifest import Manifest
from models_store.tensors import unpack
from tests.integration.worker.conftest import NewLab
from tests.support.trained import Lab, recipe_of
from worker.context import JobContext
from worker.steps.unlearn import unlearn
from worker.traces import draw, lines_of, trace_of
from worker.unlearners.decay import rule_on
from worker.unlearners.replay import keys_of

NUM_BLOCKS = 24
EAGER = {"epsilon": 1e6, "min_points": 8, "min_r_squared": 0.0}
NEVER = {"epsilon": 1e-12, "min_points": 8, "min_r_squared": 0.0}
States = list[dict[str, Tensor]]


def stitching(new_lab: NewLab, *, net: str = "mlp", rule: dict[str, Any] = EAGER, **policy: object) -> Lab:
    """Return a model of many small blocks, trained with plain SGD, whose interim method stitches."""
    wanted: dict[str, object] = {"interim_method": "stitch", "references": True, "stitch": rule}
    lab = new_lab(recipe_of(net, "sgd", blocks=NUM_BLOCKS, min_present=1), **{**wanted, **policy})
    lab.work()
    return lab


def claimed(lab: Lab, *subjects: str) -> dict[JobKind, Claim]:
    """Delete subjects, claim the interim and the settle job, and run the interim one."""
    for subject in subjects:
        lab.world.sealed(subject)
    jobs = {claim.kind: claim for claim in (lab.claim(), lab.claim()) if claim is not None}
    lab.finish(jobs[JobKind.INTERIM])
    return jobs


def interim(lab: Lab, *subjects: str) -> Claim:
    """Delete subjects and run the interim job; the settle job is held by a worker that does nothing."""
    return claimed(lab, *subjects)[JobKind.INTERIM]


def settle(lab: Lab, jobs: dict[JobKind, Claim]) -> None:
    """Run the settle job."""
    lab.finish(jobs[JobKind.SETTLE])
    lab.work()


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


def served(lab: Lab, number: int) -> dict[str, Tensor]:
    """Return the weights of a version as the store has them."""
    version = next(row for row in lab.versions if row.number == number)
    manifest = Manifest.from_bytes(lab.own.store.get(version.manifest_digest))
    (file,) = (file for file in manifest.files if file.name == "weights.safetensors")
    return unpack(lab.own.store.get(file.digest))[0]


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


def trace(lab: Lab, claim: Claim) -> dict[str, Any]:
    """Return what the job measured in its only shard."""
    return trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)[0]


def early(lab: Lab) -> list[str]:
    """Return subjects whose block comes early enough for a stop, in the order of their blocks."""
    places = {name: next(iter(own)) for name, own in lab.blocks.items()}
    known = [name for name, block in places.items() if block is not None and 1 <= block < NUM_BLOCKS - 12]
    return sorted(known, key=lambda name: places[name] or 0)


@pytest.mark.parametrize("placement", ["sqrt", "all"])
def test_it_publishes_the_retrained_weights_and_what_the_last_exact_run_did_from_there(
    new_lab: NewLab, placement: str
) -> None:
    lab = stitching(new_lab, checkpoints=placement)
    num_stops = 0
    for person in early(lab)[:4]:
        full, own = states(lab), states(lab, without=(person,))
        (block,) = lab.blocks[person]
        assert block is not None
        stop = expected_stop(full, own, touched=[block], rule=StitchRule(**EAGER))
        jobs = claimed(lab, person)
        measured = trace(lab, jobs[JobKind.INTERIM])
        assert measured["stopped_after"] == stop
        if stop is not None:
            num_stops += 1
            wanted = {
                n: own[stop][n].double() + (full[-1][n].double() - full[stop][n].double()) for n in own[0]
            }
            found = served(lab, lab.version.number)
            assert all(torch.equal(found[n], wanted[n].float()) for n in found)
            assert measured["num_blocks"] == stop - measured["resumed_after"]
        assert lab.versions[-1].guarantee == Guarantee.EMPIRICAL
        settle(lab, jobs)
        assert lab.audit().is_equal
    assert num_stops


def test_several_deletions_are_one_stitch_against_the_last_exact_run(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    first, second = early(lab)[0], early(lab)[6]
    full, own = states(lab), states(lab, without=(first, second))
    touched = sorted({block for name in (first, second) for block in lab.blocks[name] if block is not None})
    assert len(touched) == 2
    interim(lab, first)  # an interim version is not what the next one is stitched to
    lab.world.sealed(second)
    again = lab.claim()
    assert again is not None
    assert again.kind is JobKind.INTERIM
    lab.finish(again)
    measured = trace(lab, again)
    assert measured["touched"] == touched
    stop = expected_stop(full, own, touched=touched, rule=StitchRule(**EAGER))
    assert measured["stopped_after"] == stop
    assert stop is not None
    wanted = {n: own[stop][n].double() + (full[-1][n].double() - full[stop][n].double()) for n in own[0]}
    found = served(lab, lab.version.number)
    assert all(torch.equal(found[n], wanted[n].float()) for n in found)


def test_a_fit_that_never_holds_replays_to_the_end_where_it_is_exact(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER)
    person = early(lab)[0]
    expected = lab.straight_digest(without=[person])
    measured = trace(lab, interim(lab, person))
    assert (measured["stopped_after"], lab.version.weights_digest) == (None, expected)
    assert len(measured["residuals"]) == NUM_BLOCKS - measured["touched"][0]


def test_without_references_it_replays_to_the_end(new_lab: NewLab) -> None:
    lab = stitching(new_lab, interim_method=None, references=False)
    person = early(lab)[0]
    expected = lab.straight_digest(without=[person])
    lab.set_policy(interim_method="stitch", references=True)  # too late for the training that was
    measured = trace(lab, interim(lab, person))
    assert (measured["stopped_after"], lab.version.weights_digest) == (None, expected)
    assert "were not kept" in measured["why"]


def test_running_statistics_are_estimated_anew(new_lab: NewLab) -> None:
    recipe = recipe_of("lenet5_batch_norm", "sgd", blocks=NUM_BLOCKS, min_present=2)
    policy = {"interim_method": "stitch", "references": True, "stitch": EAGER}
    lab = new_lab(recipe, **policy)
    lab.work()
    stops = 0
    for person in early(lab)[:3]:
        jobs = claimed(lab, person)
        measured = trace(lab, jobs[JobKind.INTERIM])
        found = served(lab, lab.version.number)
        variances = [tensor for name, tensor in found.items() if name.endswith("running_var")]
        assert variances
        assert all(bool((tensor > 0).all()) for tensor in variances)
        stops += measured["stopped_after"] is not None
        settle(lab, jobs)
    assert stops


def test_nothing_resumes_from_a_stitched_state(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    claim = interim(lab, early(lab)[0])
    with reading(lab.own.sessions) as session:
        outputs = session.get_one(Job, claim.job_id).outputs
    assert not {row.digest for row in lab.checkpoints} & set(outputs["unlearn"]["constituents"])


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
    for person in early(lab)[:3]:
        settle(lab, claimed(lab, person))
        assert not missing_references(lab)
    grown = sum(lab.own.store.size(digest) for digest in lab.own.store.digests())
    assert grown < 1.2 * size
    assert {row.status for row in lab.versions[:-1]} == {VersionStatus.PURGED}


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
    lab = stitching(new_lab)
    claim = interim(lab, early(lab)[0])
    manifest = Manifest.from_bytes(lab.own.store.get(lab.versions[-1].manifest_digest))
    checks = json.loads(lab.own.store.get(manifest.evidence))["checks"]
    found = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    assert checks["stitching"]["figures"]["shards"] == found
    assert "block" in lines_of(found)[0]
    draw(found, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
