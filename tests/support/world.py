"""A small world in the database: datasets, models and versions as rows, without any training."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.db.ids import new_id
from app.db.models import base_version, model_named
from app.db.records import dataset_named, marks_of
from app.db.requests import events_of
from app.db.session import Sessions, reading, writing
from app.db.tables import Dataset, Event, Job, Model, Placement, Receipt, Record, Request, Target
from app.domain.access import Scope
from app.domain.status import JobKind, JobStatus
from app.domain.terms import DEFAULT_TENANT, Claim, DatasetId, JobId, ModelId, Submission, TenantName
from app.keyring import Keyring, commitment
from app.services.api_keys import create_key
from app.services.claim import claim_next, finish
from app.services.close import close
from app.services.publish import PublishedVersion, publish
from app.services.references import put_blob
from app.services.seal import seal
from app.services.submit import submit
from models_store.blobs import BlobStore
from models_store.manifest import Manifest, ManifestFile

ENVIRONMENT = "e" * 64
NUM_BLOCKS = 4


def manifest_of(
    *, weights: bytes, model: str = "churn", job: str = "job", covers: int = 0, settled: int | None = None,
    method: str = "train", parent: str | None = None, guarantee: str = "exact",
) -> Manifest:  # fmt: skip
    """Return a well-formed manifest of a version with one file."""
    digest = hashlib.sha256(weights).hexdigest()
    file = ManifestFile(name="weights.safetensors", digest=digest, size=len(weights))
    return Manifest(
        files=(file,), model=model, recipe_digest="a" * 64, parent=parent, job=job, guarantee=guarantee,
        method=method, evidence="b" * 64, environment={"torch": "none"}, covers=covers,
        settled=covers if settled is None else settled, weights_digest=digest, plan_key_id="key",
        retained_digest="c" * 64, code_digest="d" * 64, factory="nets:mlp", factory_arguments={},
        input_schema={}, label_schema={},
    )  # fmt: skip


@dataclass
class World:
    """Makes rows through SQLAlchemy and moves them on through the services."""

    sessions: Sessions
    keyring: Keyring
    store: BlobStore
    tenant: TenantName = DEFAULT_TENANT
    erased: list[tuple[str, list[int]]] = field(default_factory=list)

    def key(self, *scopes: Scope, tenant: TenantName | None = None) -> str:
        """Return a fresh API key."""
        return create_key(
            self.sessions, tenant=tenant or self.tenant, name="test", scopes=scopes or {Scope.ADMIN}
        ).token

    def dataset(self, name: str = "people", *, subjects: Mapping[str, int]) -> DatasetId:
        """Store a dataset in which each subject has so many records."""
        owners = [subject for subject, count in subjects.items() for _ in range(count)]
        dataset_id = new_id("dat")
        with writing(self.sessions) as session:
            session.add(
                Dataset(
                    id=dataset_id, tenant=self.tenant, name=name, subject_type="person",
                    num_records=len(owners), layout={},
                )
            )  # fmt: skip
            session.flush()
            for row, owner in enumerate(owners):
                session.add(self._record(dataset_id, name, row, owner))
        return DatasetId(dataset_id)

    def _record(self, dataset_id: str, dataset: str, row: int, owner: str) -> Record:
        return Record(
            dataset_id=dataset_id, row=row, salt=b"salt", content_digest=bytes(32), is_held_out=False,
            spread=1,
            record_ref=self.keyring.record_refs(f"r{row}", dataset=dataset)[0],
            subject_ref=self.keyring.subject_refs(owner, subject_type="person")[0],
        )  # fmt: skip

    def model(
        self, name: str = "churn", *, dataset: DatasetId, num_records: int = 0, training_seconds: float = 0.0
    ) -> ModelId:
        """Store a model whose plan puts row r into block r % 4."""
        model_id = new_id("mdl")
        with writing(self.sessions) as session:
            session.add(
                Model(
                    id=model_id, tenant=self.tenant, name=name, dataset_id=dataset, policy={},
                    recipe={"plan": {"blocks": NUM_BLOCKS}}, recipe_digest="a" * 64,
                    training_seconds=training_seconds,
                )
            )  # fmt: skip
            session.flush()
            session.add_all(
                Placement(
                    model_id=model_id, row=row, shard=0, block=row % NUM_BLOCKS, token=secrets.token_bytes(16)
                )
                for row in range(num_records)
            )
        return ModelId(model_id)

    def trained(
        self,
        name: str = "churn",
        *,
        subjects: Mapping[str, int],
        training_seconds: float = 0.0,
        weights: bytes = b"weights 1",
    ) -> ModelId:
        """Store a dataset of its own, a model on it, and publish version 1."""
        dataset = self.dataset(f"{name}-data", subjects=subjects)
        model = self.model(
            name, dataset=dataset, num_records=sum(subjects.values()), training_seconds=training_seconds
        )
        self.train(model, name=name, weights=weights)
        return model

    def hold_out(self, subject: str, *, dataset: str, row: int) -> None:
        """Give a subject one held-out record, which no training meets."""
        with writing(self.sessions) as session:
            stored = dataset_named(session, dataset, tenant=self.tenant)
            record = self._record(stored.id, dataset, row, subject)
            record.is_held_out = True
            session.add(record)

    def train(self, model: ModelId, *, name: str, weights: bytes) -> PublishedVersion:
        """Publish what a train job would."""
        self.queue(model, kind=JobKind.TRAIN)
        return self.run(model, name=name, weights=weights)

    def queue(self, model: ModelId, *, kind: JobKind) -> JobId:
        """Queue a job."""
        job_id = new_id("job")
        with writing(self.sessions) as session:
            session.add(
                Job(
                    id=job_id, tenant=self.tenant, model_id=model, kind=kind, status=JobStatus.QUEUED,
                    step="prepare",
                )
            )  # fmt: skip
        return JobId(job_id)

    def claim(self, *, owner: str = "worker") -> Claim:
        """Claim the next job; there must be one."""
        claim = claim_next(self.sessions, store=self.store, owner=owner, environment_digest=ENVIRONMENT)
        assert claim is not None
        return claim

    def publish(
        self, claim: Claim, *, name: str = "churn", weights: bytes, covers: int | None = None,
        is_treated: bool = False,
    ) -> PublishedVersion:  # fmt: skip
        """Publish a version that covers all that is sealed, or so much; of a settle job an empirical one."""
        manifest = self.manifest(claim, name=name, weights=weights, covers=covers, is_treated=is_treated)
        put_blob(self.sessions, weights, claim=claim, store=self.store)
        put_blob(self.sessions, manifest.to_bytes(), claim=claim, store=self.store)
        return publish(self.sessions, claim, manifest, environment_digest=ENVIRONMENT)

    def manifest(
        self, claim: Claim, *, name: str, weights: bytes, covers: int | None, is_treated: bool = False
    ) -> Manifest:
        """Return the manifest of what a job made, with an empirical method if it ``is_treated``."""
        with reading(self.sessions) as session:
            sealed = model_named(session, name, tenant=self.tenant).num_sealed
            base = base_version(session, claim.model_id)
        is_empirical = is_treated or claim.kind is JobKind.INTERIM
        method = "shift" if is_empirical else {JobKind.TRAIN: "train"}.get(claim.kind, "replay")
        return manifest_of(
            weights=weights, model=name, job=claim.job_id, covers=sealed if covers is None else covers,
            settled=base.settled if base is not None and is_empirical else None, method=method,
            parent=None if base is None else base.manifest_digest,
            guarantee="empirical" if is_empirical else "exact",
        )  # fmt: skip

    def run(self, model: ModelId, *, name: str = "churn", weights: bytes) -> PublishedVersion:
        """Claim the next job, publish, end it."""
        claim = self.claim()
        assert claim.model_id == model
        version = self.publish(claim, name=name, weights=weights)
        finish(self.sessions, claim, output={}, store=self.store)
        return version

    def post(
        self,
        subject: str,
        *,
        models: Sequence[str] | None = None,
        records: dict[DatasetId, tuple[bytes, ...]] | None = None,
        due_at: float | None = None,
    ) -> str:
        """Submit a deletion request."""
        nonce = secrets.token_bytes(32)
        submission = Submission(
            subject_refs=self.keyring.subject_refs(subject, subject_type="person"), subject_type="person",
            commitment=commitment(nonce, subject, subject_type="person"), nonce=nonce,
            models=None if models is None else tuple(models), record_refs=records, due_at=due_at,
        )  # fmt: skip
        return submit(self.sessions, submission, tenant=self.tenant, keyring=self.keyring)

    def sealed(self, subject: str, *, models: Sequence[str] | None = None) -> str:
        """Submit a deletion request and seal it."""
        request_id = self.post(subject, models=models)
        seal(self.sessions, request_id)
        return request_id

    def erase(self, dataset: DatasetId, rows: Sequence[int]) -> None:
        """Stand in for zeroing the bytes of a data file."""
        self.erased.append((dataset, list(rows)))

    def close(self, request_id: str) -> bool:
        """Close a request if it is ready."""
        return close(self.sessions, request_id, keyring=self.keyring, erase=self.erase)

    def request(self, request_id: str) -> Request:
        """Return a request's row."""
        with reading(self.sessions) as session:
            return session.get_one(Request, request_id)

    def targets(self, request_id: str) -> list[Target]:
        """Return the targets of a request."""
        with reading(self.sessions) as session:
            return list(
                session.query(Target).where(Target.request_id == request_id).order_by(Target.model_id)
            )

    def receipt(self, request_id: str) -> Receipt:
        """Return the receipts of a completed request."""
        with reading(self.sessions) as session:
            return session.get_one(Receipt, request_id)

    def events(self, request_id: str) -> list[Event]:
        """Return the audit trail."""
        with reading(self.sessions) as session:
            return list(events_of(session, request_id))

    def tombstones(self, model: ModelId) -> list[tuple[int, int | None, int | None]]:
        """Return (number, shard, position) in order."""
        with reading(self.sessions) as session:
            return [(mark.number, mark.shard, mark.position) for mark in marks_of(session, model)]

    def expire(self, claim: Claim) -> None:
        """Let a lease have ended."""
        with writing(self.sessions) as session:
            session.get_one(Job, claim.job_id).lease_until = 0.0

    def shift(self, request_id: str, **columns: object) -> None:
        """Set columns of a request, its times for instance."""
        with writing(self.sessions) as session:
            request = session.get_one(Request, request_id)
            for column, value in columns.items():
                setattr(request, column, value)

    @staticmethod
    def digest(data: bytes) -> str:
        """Return the name of a blob."""
        return hashlib.sha256(data).hexdigest()
