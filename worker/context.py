"""What the steps of one job share: its model, its claim, and the records it may see.

Promises: ``retained`` never returns a record that the job's version must have forgotten; forget-set
records come only from ``forgotten``, for the steps that ask for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from app.db.jobs import job_by_id
from app.db.records import corrected_records, forgotten_records, retained_records
from app.db.session import reading
from app.db.tables import Dataset, Model
from app.domain.errors import HandedOver
from app.domain.policy import Policy
from app.domain.terms import Claim, JsonObject
from app.services.queue_job import policy_of
from worker.data.data_files import DataFile, Layout, open_data_file
from worker.data.loader import Loader
from worker.data.records import RecordTable, table_from_rows
from worker.determinism import Environment, choose_device, environment, fix_kernels
from worker.installation import Installation
from worker.training.checkpoints import RunIdentity
from worker.training.factory import factory_digest
from worker.training.inputs import transform_of
from worker.training.recipe import NetRecipe, Recipe
from worker.training.registered import NO_PLAN_KEY, require_plan, stored_recipe


@dataclass(frozen=True)
class ModelFacts:
    """A model with its dataset, as a job reads them once."""

    row: Model
    dataset_name: str
    layout: Layout
    recipe: NetRecipe
    policy: Policy
    plan_key_id: str


def never() -> bool:
    """Nobody asks this job to stop."""
    return False


class JobContext:
    """One job in one process. Making it fixes kernels and threads for the whole process."""

    def __init__(
        self, installation: Installation, claim: Claim, *, should_stop: Callable[[], bool] = never
    ) -> None:
        self.installation = installation
        self.claim = claim
        self.should_stop = should_stop
        self.model = _read_model(installation, claim)
        self.device = choose_device()
        fix_kernels(self.model.recipe.execution.threads)

    def hand_over_if_asked(self) -> None:
        """Stop here if somebody asked for it; to be called where another worker can go on.

        Raises:
            HandedOver: the job should stop.
        """
        if self.should_stop():
            raise HandedOver("the job was asked to stop")

    @property
    def net_recipe(self) -> NetRecipe:
        """What the recipe says of any model's net and inputs."""
        return self.model.recipe

    @property
    def recipe(self) -> Recipe:
        """The recipe of a model that is trained here; RecipeRefused if it was trained elsewhere."""
        return require_plan(self.model.recipe)

    @property
    def shards(self) -> range:
        """The shards of the plan; without one there is a single one."""
        return range(self.net_recipe.num_shards)

    @property
    def num_blocks(self) -> int:
        """Blocks of a whole training, in all shards."""
        return self.net_recipe.num_positions * self.net_recipe.num_shards

    @cached_property
    def environment(self) -> Environment:
        """The fingerprint of this process."""
        return environment(self.device)

    @cached_property
    def identity(self) -> RunIdentity:
        """What the keys of this job's checkpoints depend on besides the records."""
        return RunIdentity(
            recipe_digest=self.model.row.recipe_digest,
            plan_key_id=self.model.plan_key_id,
            environment_digest=self.environment.digest(),
            factory_digest=factory_digest(self.net_recipe),
        )

    @property
    def data_file(self) -> DataFile:
        """The records' bytes, mapped anew: corrected records are appended while jobs run."""
        folder = self.installation.settings.data_folder
        return open_data_file(folder, self.model.row.dataset_id, layout=self.model.layout)

    def output_of(self, step: str) -> JsonObject:
        """Return what an earlier step of this job found out; empty when it did not run."""
        with reading(self.installation.sessions) as session:
            found = job_by_id(session, self.claim.job_id).outputs.get(step, {})
        assert isinstance(found, dict)
        return found

    def retained(self, *, covers: int) -> RecordTable:
        """Return the records that a version covering ``covers`` may be trained or tested on."""
        with reading(self.installation.sessions) as session:
            return table_from_rows(retained_records(session, self.model.row, covers=covers))

    def forgotten(self, *, above: int, covers: int, is_learned: bool = False) -> RecordTable:
        """Return the records with tombstones in (above, covers] that are not erased yet.

        ``is_learned`` leaves out those that no run with ``n = above`` was trained on.
        """
        with reading(self.installation.sessions) as session:
            rows = forgotten_records(
                session, self.model.row, above=above, covers=covers, is_learned=is_learned
            )
        return table_from_rows(rows)

    def corrected(self, *, above: int, covers: int) -> RecordTable:
        """Return the retained records that took the places of those with tombstones in (above, covers]."""
        with reading(self.installation.sessions) as session:
            return table_from_rows(corrected_records(session, self.model.row, above=above, covers=covers))

    def loader(
        self, table: RecordTable, *, poisoned: RecordTable | None = None, reads_all: bool = True
    ) -> Loader:
        """Return a loader of ``table``; poisoned records become NaN wherever they turn up.

        ``reads_all`` False spares a step that meets few blocks from reading all of them.
        """
        return Loader(
            self.data_file,
            table,
            transform=transform_of(self.net_recipe, shape=self.model.layout.shape),
            device=self.device,
            resident_bytes=self.installation.settings.resident_bytes if reads_all else 0,
            poisoned=() if poisoned is None else poisoned.row_N.tolist(),
        )


def _read_model(installation: Installation, claim: Claim) -> ModelFacts:
    with reading(installation.sessions) as session:
        model = session.get_one(Model, claim.model_id)
        dataset = session.get_one(Dataset, model.dataset_id)
        return ModelFacts(
            row=model,
            dataset_name=dataset.name,
            layout=Layout.from_json(dataset.layout),
            recipe=stored_recipe(model.recipe),
            policy=policy_of(model),
            plan_key_id=installation.keyring.plan_key_id(model.id) if model.has_plan else NO_PLAN_KEY,
        )
