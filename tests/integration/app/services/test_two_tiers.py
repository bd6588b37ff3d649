"""Exact, interim and accepted empirical versions in any order, against a model of who learned from whom."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.ids import new_id
from app.db.jobs import checkpoints_of
from app.db.models import alias_version, exact_ancestor, versions_of
from app.db.session import reading, writing
from app.db.tables import Job, Model, Target, Tombstone
from app.domain.errors import CoverageWouldFall
from app.domain.status import JobKind, JobStatus, Outcome, TargetStatus, VersionStatus
from app.domain.terms import Claim, DatasetId
from app.services.checkpoint import CheckpointFacts, register_checkpoint
from app.services.claim import claim_next, fail, finish, finish_step
from app.services.close import close_ready
from app.services.prepare import Scope, fix_scope
from app.services.publish import publish
from app.services.purge import purge
from app.services.queue_job import needed_environment
from app.services.references import put_blob
from app.services.seal import seal
from tests.support.world import ENVIRONMENT, NUM_BLOCKS, World, manifest_of

SUBJECTS = tuple(f"s{index}" for index in range(6))
EXACT = {"interim_method": "shift"}
# A stored policy is believed: here interim jobs meet settle jobs whose version an empirical method makes.
TREATED = {"final_method": "shift", "accept_empirical": True, "interim_method": "shift"}


@dataclass(frozen=True)
class Truth:
    """What one artifact learned from, and whom a method was applied for; rows are subjects here."""

    learned: frozenset[int]
    treated: frozenset[int] = frozenset()

    def holds(self, row: int) -> bool:
        """Whether it remembers a record untreated."""
        return row in self.learned and row not in self.treated


@dataclass
class Town:
    """One model of six people with a record each, and the jobs that were begun and not ended."""

    world: World
    scratch: Path
    name: str = field(default_factory=lambda: new_id("mdl"))
    truths: dict[str, Truth] = field(default_factory=dict)  # by manifest digest
    blobs: dict[str, Truth] = field(default_factory=dict)  # by digest, everything that was ever stored
    begun: dict[JobKind, tuple[Claim, Scope, bool]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    rising: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        subjects = dict.fromkeys(SUBJECTS, 1)
        dataset = self.world.dataset(f"{self.name}-data", subjects=subjects)
        self.model = self.world.model(self.name, dataset=dataset, num_records=len(subjects))
        with writing(self.world.sessions) as session:
            session.get_one(Model, self.model).policy = EXACT
        self.world.queue(self.model, kind=JobKind.TRAIN)
        claim, everybody = self.world.claim(), Truth(frozenset(range(len(subjects))))
        self._checkpoint(claim, everybody, settled=0)
        first = self.world.publish(claim, name=self.name, weights=self.name.encode())
        self._finish(claim)
        self.truths[first.manifest_digest] = self.blobs[first.weights_digest] = everybody

    def seal(self, row: int) -> None:
        request_id = self.world.post(SUBJECTS[row], models=[self.name])
        seal(self.world.sessions, request_id)
        with reading(self.world.sessions) as session:
            for mark in session.query(Tombstone).filter(Tombstone.model_id == self.model):
                if mark.row is not None:
                    self.numbers[mark.row] = mark.number

    def begin(self, kind: JobKind, *, policy: dict[str, object]) -> None:
        """Claim the job of a kind that waits, if there is one, and fix its n under a policy."""
        claim = None if kind in self.begun else self._claim(kind)
        if claim is None:
            return
        with writing(self.world.sessions) as session:
            session.get_one(Model, self.model).policy = policy
        if claim.step != "prepare":
            self._purge(claim, covers=self._covers(claim))  # it was parked
            return
        scope = fix_scope(self.world.sessions, claim)
        output = {"scope": {**vars(scope)}, "covers": scope.covers}
        if scope.is_covered:
            after = finish_step(self.world.sessions, claim, next_step="purge", output=output)
            self._purge(after, covers=scope.covers) if kind is JobKind.SETTLE else self._finish(after)
            return
        after = finish_step(self.world.sessions, claim, next_step="publish", output=output)
        is_treated = kind is JobKind.INTERIM or (policy == TREATED and scope.is_base_exact)
        self.begun[kind] = (after, scope, is_treated)

    def end(self, kind: JobKind) -> None:
        """Publish what a begun job made, and run it to its end."""
        if kind not in self.begun:
            return
        claim, scope, is_treated = self.begun.pop(kind)
        try:
            is_staged = self._publish(claim, scope, is_treated=is_treated)
        except CoverageWouldFall as error:
            fail(self.world.sessions, claim, store=self.world.store, error=str(error), is_retryable=True)
            return
        if kind is JobKind.INTERIM:
            self._finish(claim)
        elif not is_staged:
            purging = finish_step(self.world.sessions, claim, next_step="purge", output={})
            self._purge(purging, covers=scope.covers)

    def end_all(self) -> None:
        """Run whatever waits until nothing does."""
        while True:
            for kind in (JobKind.SETTLE, JobKind.INTERIM):
                self.end(kind)
                self.begin(kind, policy=EXACT)
            if not self.begun and not self._waiting():
                return

    def require_promises(self) -> None:
        with reading(self.world.sessions) as session:
            current = alias_version(session, self.model)
            assert current is not None
            self.rising.append((current.covers, current.settled))
            targets = session.query(Target).filter(Target.model_id == self.model).all()
            stored = {r.digest for r in checkpoints_of(session, self.model)}
            versions = {v.weights_digest: v for v in versions_of(session, self.model)}
        before, after = self.rising[-2:][0], self.rising[-1]
        assert all(b <= a for b, a in zip(before, after, strict=True))
        truth = self.truths[current.manifest_digest]
        for row, number in self.numbers.items():
            assert not (number <= current.covers and truth.holds(row))
            assert not (number <= current.settled and row in truth.learned)
        for digest, version in versions.items():
            is_there = self.world.store.has(digest)
            assert is_there is (version.status != VersionStatus.PURGED)
        for target in targets:
            if target.purged_at is not None:
                self._require_forgotten(target, stored | set(versions))

    def _require_forgotten(self, target: Target, digests: set[str]) -> None:
        """Nothing that is left remembers the person of a finished target otherwise than it says."""
        assert target.through is not None
        (row,) = (row for row, number in self.numbers.items() if number == target.through)
        for digest in digests:
            if self.world.store.has(digest):
                assert not self.blobs[digest].holds(row)
                assert target.outcome == Outcome.TREATED or row not in self.blobs[digest].learned

    def _publish(self, claim: Claim, scope: Scope, *, is_treated: bool) -> bool:
        weights = new_id("w").encode()
        left_out = frozenset(row for row, number in self.numbers.items() if number <= scope.covers)
        if is_treated:
            assert scope.base is not None
            truth = Truth(self.truths[scope.base].learned, left_out)
        else:
            truth = Truth(frozenset(range(len(SUBJECTS))) - left_out)
            self._checkpoint(claim, truth, settled=scope.covers)
        manifest = manifest_of(
            weights=weights, model=self.name, job=claim.job_id, covers=scope.covers, parent=scope.base,
            settled=scope.settled if is_treated else None, method="shift" if is_treated else "replay",
            guarantee="empirical" if is_treated else "exact",
        )  # fmt: skip
        self.truths[manifest.digest] = self.blobs[World.digest(weights)] = truth
        for data in (weights, manifest.to_bytes()):
            put_blob(self.world.sessions, data, claim=claim, store=self.world.store)
        return publish(self.world.sessions, claim, manifest, environment_digest=ENVIRONMENT).is_staged

    def _checkpoint(self, claim: Claim, truth: Truth, *, settled: int) -> None:
        """Keep a state after every block, as an exact run does."""
        for position in range(NUM_BLOCKS):
            data = new_id("state").encode()
            digest = World.digest(data)
            self.blobs[digest] = Truth(
                frozenset(row for row in truth.learned if row % NUM_BLOCKS <= position)
            )
            facts = CheckpointFacts(
                role="policy", key=digest, shard=0, position=position, settled=settled,
                state_digest=digest,
            )  # fmt: skip
            register_checkpoint(self.world.sessions, claim, facts, data=data, store=self.world.store)
            self.world.store.put(data)

    def _purge(self, claim: Claim, *, covers: int) -> None:
        own = self.world
        purge(own.sessions, claim, covers=covers, store=own.store, scratch=self.scratch)
        self._finish(claim)

    def _finish(self, claim: Claim) -> None:
        own = self.world
        finish(own.sessions, claim, output={}, store=own.store)
        close_ready(own.sessions, keyring=own.keyring, erase=own.erase)

    def _claim(self, kind: JobKind) -> Claim | None:
        for job_id in self._waiting(kind):
            claim = claim_next(
                self.world.sessions,
                store=self.world.store,
                owner="w",
                environment_digest=ENVIRONMENT,
                only=job_id,
            )
            if claim is not None:
                return claim
        return None

    def _waiting(self, *kinds: JobKind) -> list[str]:
        with reading(self.world.sessions) as session:
            ended = [JobStatus.SUCCEEDED, JobStatus.FAILED]
            jobs = session.query(Job).filter(Job.model_id == self.model, Job.status.not_in(ended))
            return [job.id for job in jobs.order_by(Job.created_at) if not kinds or job.kind in kinds]

    def _covers(self, claim: Claim) -> int:
        with reading(self.world.sessions) as session:
            return int(session.get_one(Job, claim.job_id).outputs["prepare"]["covers"])


_kinds = st.sampled_from([JobKind.SETTLE, JobKind.INTERIM])
_moves = st.one_of(
    st.tuples(st.just("seal"), st.integers(0, len(SUBJECTS) - 1)),
    st.tuples(st.sampled_from(["begin", "run", "end"]), _kinds),
    st.tuples(st.sampled_from(["begin treated", "run treated"]), st.just(JobKind.SETTLE)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=st.lists(_moves, min_size=4, max_size=16))
def test_in_any_order_nobody_finished_is_remembered_otherwise_than_said(
    world: World, tmp_path: Path, moves: list[tuple[str, int | JobKind]]
) -> None:
    town = Town(world, tmp_path)
    town.require_promises()
    for verb, what in moves:
        match verb, what:
            case "seal", int(row):
                town.seal(row)
            case str(), JobKind() as kind:
                if verb != "end":
                    town.begin(kind, policy=TREATED if verb.endswith("treated") else EXACT)
                if not verb.startswith("begin"):
                    town.end(kind)
        town.require_promises()
    town.end_all()
    town.require_promises()
    with reading(world.sessions) as session:
        targets = session.query(Target).filter(Target.model_id == town.model).all()
    assert {target.status for target in targets} <= {TargetStatus.COMPLETED}


@pytest.fixture
def town(world: World, tmp_path: Path) -> Iterator[Town]:
    town = Town(world, tmp_path)
    yield town
    town.require_promises()


def settle(town: Town, policy: dict[str, object]) -> None:
    town.begin(JobKind.SETTLE, policy=policy)
    town.end(JobKind.SETTLE)


def numbers_of(town: Town) -> list[tuple[str, int, int]]:
    with reading(town.world.sessions) as session:
        return [(v.status, v.covers, v.settled) for v in versions_of(session, town.model)]


def outcomes(town: Town) -> list[str | None]:
    with reading(town.world.sessions) as session:
        rows = session.query(Target).filter(Target.model_id == town.model).order_by(Target.posted_at)
        return [target.outcome for target in rows]


def test_a_treated_person_is_finished_and_the_next_replay_settles_them_too(town: Town) -> None:
    P, X = VersionStatus.PURGED, VersionStatus.PUBLISHED
    town.seal(3)
    settle(town, TREATED)
    assert numbers_of(town) == [(P, 0, 0), (X, 1, 0)]
    assert outcomes(town) == [Outcome.TREATED]
    assert [rows for _, rows in town.world.erased] == [[3]]
    town.seal(4)
    town.begin(JobKind.SETTLE, policy=TREATED)
    _, scope, is_treated = town.begun[JobKind.SETTLE]
    # Not the new person alone: also whom only an empirical method was applied for.
    assert (scope.settled, scope.covers, scope.first_touched) == (0, 2, {0: 0})
    assert not is_treated
    town.end(JobKind.SETTLE)
    assert numbers_of(town) == [(P, 0, 0), (P, 1, 0), (X, 2, 2)]
    assert outcomes(town) == [Outcome.TREATED, Outcome.UNLEARNED]


def test_asking_again_finds_the_treated_version_while_the_policy_accepts_it(town: Town) -> None:
    with reading(town.world.sessions) as session:
        dataset = DatasetId(session.get_one(Model, town.model).dataset_id)
    # It uses the records, so their rows stay and can be asked for again.
    town.world.model(new_id("other"), dataset=dataset, num_records=len(SUBJECTS))
    town.seal(3)
    settle(town, TREATED)
    town.seal(3)
    settle(town, TREATED)
    assert [pair[1:] for pair in numbers_of(town)] == [(0, 0), (1, 0)]
    assert outcomes(town) == [Outcome.TREATED, Outcome.TREATED]
    town.seal(3)
    settle(town, EXACT)
    assert [pair[1:] for pair in numbers_of(town)][-1] == (1, 1)
    assert outcomes(town)[-1] == Outcome.UNLEARNED


def test_an_interim_version_is_never_made_final(town: Town) -> None:
    town.seal(3)
    town.begin(JobKind.INTERIM, policy=EXACT)
    town.end(JobKind.INTERIM)
    town.begin(JobKind.SETTLE, policy=TREATED)
    _, scope, is_treated = town.begun[JobKind.SETTLE]
    assert (scope.is_covered, scope.is_base_exact, is_treated) == (False, False, False)
    town.end(JobKind.SETTLE)
    assert outcomes(town) == [Outcome.UNLEARNED]


def test_a_replay_needs_the_machine_of_the_last_exact_run_whoever_made_the_current_version(
    town: Town,
) -> None:
    town.seal(3)
    settle(town, TREATED)
    with writing(town.world.sessions) as session:
        model = session.get_one(Model, town.model)
        current = alias_version(session, town.model)
        assert current is not None
        current.environment_digest = "f" * 64
        ancestor = exact_ancestor(session, town.model)
        assert ancestor is not None
        assert ancestor.status == VersionStatus.PURGED
        assert needed_environment(session, model, kind=JobKind.SETTLE) == ENVIRONMENT
