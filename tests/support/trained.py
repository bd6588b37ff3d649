"""A real installation with a model trained on a few digits; its jobs run in this process, step by step."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from app.db.jobs import checkpoints_of
from app.db.records import retained_records
from app.db.session import reading, writing
from app.db.tables import Checkpoint, Dataset, Model, Version
from app.domain.terms import DEFAULT_TENANT, Claim, JobView, ModelId
from app.services.claim import claim_next, finish_step, job_view
from app.services.close import close_ready
from app.services.create_model import NewModel, create_model
from app.services.publish import PublishedVersion, current_version
from app.settings import Settings
from tests.support.oracles import oracle_host
from tests.support.world import World
from worker.auditing import Audit, audit
from worker.checking import placer
from worker.context import JobContext
from worker.data.data_files import DataFile, Layout, open_data_file, row_digests
from worker.data.importing import ImportOrder, import_source
from worker.data.loader import Loader
from worker.data.records import table_from_rows
from worker.data.sources import SourceTable, read_source
from worker.determinism import choose_device, environment, fix_kernels
from worker.installation import Installation, open_installation
from worker.pipeline import STEPS, run_steps
from worker.training.inputs import transform_of
from worker.training.loop import AfterBlock, run_positions
from worker.training.recipe import Recipe, recipe_from_json
from worker.training.state import initial_state, weights, weights_digest

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("worker.training.nets:mlp", {"in_features": 64, "num_classes": 10, "hidden": [16]}),
    "lenet5": ("worker.training.nets:lenet5", {"image_size": 8}),
    "lenet5_batch_norm": ("worker.training.nets:lenet5", {"image_size": 8, "batch_norm": True}),
    "lenet5_dropout": ("worker.training.nets:lenet5", {"image_size": 8, "dropout": 0.4}),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "learning_rate": 0.2},
    "momentum": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adamw": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.01},
}
SCHEDULES = {"sgd": "constant", "momentum": "constant", "adamw": "cosine"}
PLAN = {"blocks": 6, "epochs": 2, "batches_per_block": 2, "batch_size": 16, "seed": 7, "min_present": 2}
NUM_LONERS, NUM_FAMILIES, FAMILY_SIZE = 90, 20, 4
# So many that no block of any of a few shards is without two of them.
MANY_LONERS = 400


def recipe_of(net: str = "mlp", optimizer: str = "momentum", **plan: int) -> Recipe:
    """Return a recipe of the small world; keywords change numbers of the plan."""
    factory, arguments = NETS[net]
    return Recipe.model_validate(
        {
            "name": "digits-model",
            "model": {"factory": factory, "arguments": arguments},
            "data": {"dataset": "digits", "shape": [1, 8, 8], "scale": 1 / 16, "mean": 0.3, "std": 0.4},
            "plan": {**PLAN, **plan},
            "optimizer": OPTIMIZERS[optimizer],
            "schedule": {"name": SCHEDULES[optimizer], "final_share": 0.1},
        }
    )


def few_digits(num_loners: int = NUM_LONERS) -> SourceTable:
    """Return 170 digits or more: subjects loner-N have one, family-N four consecutive ones."""
    owners = [f"loner-{n}" for n in range(num_loners)]
    owners += [f"family-{n}" for n in range(NUM_FAMILIES) for _ in range(FAMILY_SIZE)]
    digits, num = read_source("digits"), len(owners)
    return replace(
        digits,
        features=digits.features[:num],
        labels=digits.labels[:num],
        record_ids=digits.record_ids[:num],
        subject_ids=owners,
    )


def imported(
    home: Path, *, name: str = "digits", source: SourceTable | None = None, database_url: str = ""
) -> Installation:
    """Return an installation in a migrated home with the few digits, or another source, and no model."""
    own = open_installation(Settings(home=home, database_url=database_url))
    import_source(
        own.sessions,
        few_digits() if source is None else source,
        ImportOrder(name=name, held_out_share=0.15),
        tenant=DEFAULT_TENANT,
        keyring=own.keyring,
        data_folder=own.settings.data_folder,
    )
    return own


@dataclass(frozen=True)
class Lab:
    """An installation under one home folder, with one model in it."""

    own: Installation
    model_id: ModelId

    @classmethod
    def create(
        cls, home: Path, recipe: Recipe, *, source: SourceTable | None = None, database_url: str = "",
        **policy: object,
    ) -> "Lab":  # fmt: skip
        """Import the digits into a migrated home, create the model and queue its training."""
        own = imported(home, name=recipe.data.dataset, source=source, database_url=database_url)
        new = NewModel(
            name=recipe.name,
            dataset=recipe.data.dataset,
            recipe=recipe.to_json(),
            recipe_digest=recipe.digest(),
            policy=dict(policy),  # type: ignore[arg-type]
            training_seconds=1.0,
        )
        order = create_model(
            own.sessions, new, tenant=DEFAULT_TENANT, place=partial(placer, own.keyring, recipe)
        )
        return cls(own=own, model_id=order.model_id)

    @classmethod
    def copied(cls, home: Path, *, to: Path, database_url: str = "") -> "Lab":
        """Open a copy of a home whose connections are closed."""
        shutil.copytree(home, to)
        own = open_installation(Settings(home=to, database_url=database_url))
        with reading(own.sessions) as session:
            return cls(own=own, model_id=ModelId(session.query(Model).one().id))

    @cached_property
    def world(self) -> World:
        """Requests and rows of this installation."""
        return World(sessions=self.own.sessions, keyring=self.own.keyring, store=self.own.store)

    def close(self) -> "Lab":
        """Close its connections, so that its home can be copied."""
        self.own.engine.dispose()
        return self

    def claim(self, *, owner: str = "worker") -> Claim | None:
        """Claim the next job that fits this process."""
        fingerprint = environment(choose_device()).digest()
        return claim_next(
            self.own.sessions, store=self.own.store, owner=owner, environment_digest=fingerprint
        )

    def work(self) -> PublishedVersion:
        """Run every job to its end, sweep as a supervisor does, and return the current version."""
        while (claim := self.claim()) is not None:
            self.finish(claim)
        while close_ready(self.own.sessions, keyring=self.own.keyring, erase=self.own.erase):
            pass
        return self.version

    def finish(self, claim: Claim) -> None:
        """Run a claimed job to its end."""
        going: Claim | None = claim
        while going is not None:
            going = run_steps(self.own, going)

    def finish_in(self, context: JobContext) -> None:
        """Run a job to its end, asking what ``context`` asks between its blocks."""
        going = run_steps(self.own, context.claim, should_stop=context.should_stop)
        if going is not None:
            self.finish(going)

    def advance(self, claim: Claim, *, until: str) -> JobContext:
        """Run the steps before ``until`` and return the job as that step finds it."""
        context = JobContext(self.own, claim)
        names = [step.name for step in STEPS[claim.kind]]
        for step in STEPS[claim.kind][names.index(claim.step) : names.index(until)]:
            following = names[names.index(step.name) + 1]
            context.claim = finish_step(
                self.own.sessions, context.claim, next_step=following, output=step.run(context)
            )
        return context

    def forget(self, *subjects: str) -> PublishedVersion:
        """Delete subjects, one request each, in one job; return the version that forgot them."""
        for subject in subjects:
            self.world.sealed(subject)
        return self.work()

    def settle_claim(self, *subjects: str) -> Claim:
        """Seal a deletion of each subject and claim the job that settles them."""
        for subject in subjects:
            self.world.sealed(subject)
        claim = self.claim()
        assert claim is not None
        return claim

    def audit(self, version: str = "current", *, poisoned: bool = False) -> Audit:
        """Ask the oracle, which trains in a process of its own."""
        name = self.model.name
        run = oracle_host().run
        return audit(self.own, name, tenant=DEFAULT_TENANT, version=version, poisoned=poisoned, run=run)

    def straight_digest(
        self, *, without: Collection[str] = (), without_label: int | None = None,
        labels: Mapping[int, int] | None = None,
    ) -> str:  # fmt: skip
        """Return the weights digest of ``straight``."""
        return weights_digest(
            self.straight(without=without, without_label=without_label, labels=labels or {})
        )

    def straight(
        self, *, without: Collection[str] = (), without_label: int | None = None,
        labels: Mapping[int, int] | None = None, after_block: AfterBlock | None = None,
    ) -> list[dict[str, Tensor]]:  # fmt: skip
        """Train all constituents in this process, from initialisation, on what is stored without these.

        ``labels`` are others than those stored, by row; without a label go all records that have it then.
        """
        refs = {self._ref(name) for name in without}
        recipe, device = recipe_from_json(self.model.recipe), choose_device()
        fix_kernels(recipe.execution.threads)
        layout = Layout.from_json(self.dataset.layout)
        with reading(self.own.sessions) as session:
            rows = [r for r in retained_records(session, self.model, covers=0) if r.subject_ref not in refs]
        file = open_data_file(self.own.settings.data_folder, self.dataset.id, layout=layout)
        stored, table = np.array(file.rows), table_from_rows(rows)
        for row, label in (labels or {}).items():
            stored["label"][row] = label
        table = table.chosen(np.flatnonzero(stored["label"][table.row_N] != without_label))
        loader = Loader(
            DataFile(layout=layout, rows=stored),
            replace(table, content_digests=row_digests(stored[table.row_N])),
            transform=transform_of(recipe, shape=layout.shape),
            device=device,
            resident_bytes=1 << 20,
        )
        constituents = []
        for shard in range(recipe.plan.shards):
            state = initial_state(recipe, shard=shard, device=device)
            run_positions(
                state, range(recipe.plan.num_positions), recipe=recipe, loader=loader, shard=shard,
                device=device, after_block=after_block,
            )  # fmt: skip
            constituents.append(weights(state.net))
        return constituents

    def set_policy(self, **policy: object) -> None:
        """Change settings of the policy."""
        with writing(self.own.sessions) as session:
            model = session.get_one(Model, self.model_id)
            model.policy = {**model.policy, **policy}

    def view(self, claim: Claim) -> JobView:
        """Return the job of a claim."""
        return job_view(self.own.sessions, claim.job_id)

    @property
    def model(self) -> Model:
        """The row of the model."""
        with reading(self.own.sessions) as session:
            return session.get_one(Model, self.model_id)

    @property
    def dataset(self) -> Dataset:
        """The row of the dataset."""
        with reading(self.own.sessions) as session:
            return session.query(Dataset).one()

    @property
    def version(self) -> PublishedVersion:
        """What the alias points at."""
        version = current_version(self.own.sessions, self.model_id)
        assert version is not None
        return version

    @property
    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with reading(self.own.sessions) as session:
            return list(session.query(Version).order_by(Version.number))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoint rows by position."""
        with reading(self.own.sessions) as session:
            return sorted(checkpoints_of(session, self.model_id), key=lambda row: row.position)

    @property
    def blocks(self) -> dict[str, set[int | None]]:
        """The blocks of every subject that is still stored; None stands for held out."""
        return {name: {block for _, block in own} for name, own in self.places.items()}

    @property
    def places(self) -> dict[str, set[tuple[int | None, int | None]]]:
        """The (shard, block) of every subject that is still stored; None stands for held out."""
        names = {self._ref(name): name for name in dict.fromkeys(few_digits(MANY_LONERS).subject_ids)}
        found: dict[str, set[tuple[int | None, int | None]]] = {}
        with reading(self.own.sessions) as session:
            for row in retained_records(session, self.model, covers=0):
                found.setdefault(names[row.subject_ref], set()).add((row.shard, row.block))
        return found

    def in_shard(self, shard: int, *, block: int | None = None) -> list[str]:
        """Return the subjects of one shard, or of one of its blocks; those of one record come first."""
        found = [
            name
            for name, own in self.places.items()
            if {place[0] for place in own} == {shard} and (block is None or own == {(shard, block)})
        ]
        return sorted(found, key=lambda name: not name.startswith("loner"))

    def in_block(self, block: int | None) -> list[str]:
        """Return the subjects of one block (None: held out); with so many loners none is empty."""
        return [name for name, own in self.blocks.items() if own == {block}]

    def loners(self, block: int) -> list[str]:
        """Return the subjects of one record in a block."""
        return [name for name in self.in_block(block) if name.startswith("loner")]

    @property
    def families(self) -> list[str]:
        """Subjects of four records that training met, in the order of their blocks."""
        place = {name: max(own, key=str) for name, own in self.blocks.items() if name.startswith("family")}
        return sorted((name for name in place if place[name] is not None), key=lambda name: str(place[name]))

    def _ref(self, subject: str) -> bytes:
        return self.own.keyring.subject_refs(subject, subject_type="person")[0]


def synthetic(num_records: int, *, shape: tuple[int, ...] = (4,), seed: int = 0) -> SourceTable:
    """Return records of noise with two labels, each its own subject."""
    draw = np.random.default_rng(seed)
    return SourceTable(
        features=draw.normal(size=(num_records, *shape)).astype(np.float32),
        labels=np.arange(num_records, dtype=np.int64) % 2,
        record_ids=[f"record-{n}" for n in range(num_records)],
        subject_ids=[f"subject-{n}" for n in range(num_records)],
    )
