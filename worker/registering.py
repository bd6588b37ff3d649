"""Register a model that was trained elsewhere: check everything first, then store it in one transaction.

Promises: what is refused leaves nothing behind. What needs torch runs in a fresh process. Version 1 is
``empirical`` and says that it was registered: nobody here knows what its weights were trained on.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from app.db.ids import new_id
from app.db.records import dataset_named, records_without_plan
from app.db.session import reading
from app.domain.policy import Policy
from app.domain.status import Guarantee
from app.domain.terms import JobId, JsonObject, ModelId, TenantName
from app.services.create_model import NewModel
from app.services.register_model import Registration, register_model, require_free_name
from models_store.blobs import digest_of, parse_digest
from models_store.manifest import Manifest, ManifestFile, canonical_json, constituent_names
from worker.checking import require_shape
from worker.data.data_files import Layout
from worker.data.records import RecordTable, table_from_rows
from worker.installation import Installation
from worker.processes import fresh_calls
from worker.training.checkpoints import records_digest
from worker.training.recipe import RecipeRefused
from worker.training.registered import NO_PLAN_KEY, RegisteredRecipe
from worker.training.schemas import input_schema, label_schema

METHOD = "register"
# How long a treatment is expected to take, before one has run: most meet the retained records ten times, and
# those that count steps some hundred thousand records.
EXPECTED_PASSES, LEAST_RECORDS = 10, 100_000


@dataclass(frozen=True)
class Examination:
    """What is to be examined in a fresh process. ``table`` has all records of the dataset that are left."""

    recipe: RegisteredRecipe
    layout: Layout
    data_folder: Path
    dataset_id: str
    table: RecordTable
    num_erased: int
    weights: Path
    max_drop: float


@dataclass(frozen=True)
class Examined:
    """What was found. ``accuracy`` has the shares by sample, ``record_seconds`` is forward and backward."""

    weights: bytes
    weights_digest: str
    evidence: JsonObject
    warnings: list[str]
    accuracy: JsonObject
    environment: JsonObject
    environment_digest: str
    record_seconds: float


@dataclass(frozen=True)
class Registered:
    """The new model, and how many records of its dataset count as never met by it."""

    model_id: ModelId
    num_held_out: int


def register(
    installation: Installation,
    recipe: RegisteredRecipe,
    policy: Policy,
    *,
    weights: Path,
    tenant: TenantName,
    trained_without_erased: bool = False,
) -> Registered:
    """Publish weights as version 1 of a new model.

    ``trained_without_erased`` is the caller's word that the weights have not met what was erased from the
    dataset before; nobody else can know, and receipts lean on it.

    Raises:
        NotFound: the dataset does not exist.
        NameTaken: a model of this name stands.
        TensorFileRefused: the weights are no safetensors file, or a tensor does not fit the factory's net.
        RecipeRefused: a field does not fit the data or the net.
    """
    require_free_name(installation.sessions, recipe.name, tenant=tenant)
    asked = _examination(installation, recipe, policy, weights=weights, tenant=tenant)
    if asked.num_erased and not trained_without_erased:
        raise RecipeRefused(
            f"data.dataset: {asked.num_erased} of its records were erased since it was imported, and weights "
            "that were trained on them remember them still. If these were trained without them, say "
            "--trained-without-erased"
        )
    with fresh_calls() as calls:
        found: Examined = calls.call("worker.examination:examine", asked)
    new = _registration(asked, found, policy=policy)
    model_id = register_model(installation.sessions, new, tenant=tenant, store=installation.store)
    return Registered(model_id, num_held_out=len(asked.table.held_out()))


def _examination(
    installation: Installation, recipe: RegisteredRecipe, policy: Policy, *, weights: Path, tenant: TenantName
) -> Examination:
    with reading(installation.sessions) as session:
        dataset = dataset_named(session, recipe.data.dataset, tenant=tenant)
        table = table_from_rows(records_without_plan(session, dataset.id))
    layout = Layout.from_json(dataset.layout)
    require_shape(recipe, layout)
    if not len(table.training()):
        raise RecipeRefused("data.dataset: it has no training records")
    return Examination(
        recipe=recipe,
        layout=layout,
        data_folder=installation.settings.data_folder,
        dataset_id=dataset.id,
        table=table,
        num_erased=dataset.num_records - len(table),
        weights=weights,
        max_drop=policy.max_drop,
    )


def _registration(asked: Examination, found: Examined, *, policy: Policy) -> Registration:
    recipe = asked.recipe
    num_met = max(EXPECTED_PASSES * len(asked.table.training()), LEAST_RECORDS)
    model = NewModel(
        name=recipe.name,
        dataset=recipe.data.dataset,
        recipe=recipe.to_json(),
        recipe_digest=recipe.digest(),
        policy=TypeAdapter(Policy).dump_python(policy, mode="json"),
        training_seconds=found.record_seconds * num_met,
    )
    evidence = canonical_json(found.evidence)
    job_id = JobId(new_id("job"))
    manifest = _manifest(asked, found, job_id=job_id, evidence=evidence)
    return Registration(
        model=model,
        job_id=job_id,
        manifest=manifest,
        environment_digest=found.environment_digest,
        blobs=[found.weights, evidence, manifest.to_bytes()],
        outputs={"accuracy": found.accuracy, "warnings": [*found.warnings]},
    )


def _manifest(asked: Examination, found: Examined, *, job_id: JobId, evidence: bytes) -> Manifest:
    recipe, (weights_name,) = asked.recipe, constituent_names(1)
    files = {weights_name: found.weights, "evidence.json": evidence}
    return Manifest(
        files=tuple(
            ManifestFile(name=name, digest=digest_of(data), size=len(data)) for name, data in files.items()
        ),
        model=recipe.name,
        recipe_digest=parse_digest(recipe.digest()),
        parent=None,
        job=job_id,
        guarantee=Guarantee.EMPIRICAL,
        method=METHOD,
        evidence=digest_of(evidence),
        # Where it was examined; where it was trained nobody here knows.
        environment={
            **found.environment,
            "threads": recipe.execution.threads,
            "dtype": recipe.execution.dtype,
            "trained": "elsewhere",
        },
        covers=0,
        settled=0,
        weights_digest=parse_digest(found.weights_digest),
        plan_key_id=NO_PLAN_KEY,
        retained_digest=parse_digest(records_digest(asked.table)),
        code_digest=parse_digest(str(found.environment["code_digest"])),
        factory=recipe.model.factory,
        factory_arguments=recipe.model.arguments,
        input_schema=input_schema(recipe, asked.layout),
        label_schema=label_schema(asked.layout),
    )
