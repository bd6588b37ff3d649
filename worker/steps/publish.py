"""publish: write the manifest and make the version visible."""

from dataclasses import asdict

from app.domain.status import Guarantee, JobKind
from app.domain.terms import JsonObject
from app.services.publish import publish as publish_version
from app.services.references import put_blob
from models_store.blobs import parse_digest
from models_store.manifest import Manifest, ManifestFile, constituent_names
from worker.context import JobContext
from worker.steps.scope import made_by, scope_of, settings_by
from worker.training.schemas import input_schema, label_schema


def publish(context: JobContext) -> JsonObject:
    """Return the number and digests of the version; publishing again finds it published."""
    own = context.installation
    manifest = build_manifest(context)
    put_blob(own.sessions, manifest.to_bytes(), claim=context.claim, store=own.store)
    digest = str(context.output_of("unlearn")["environment_digest"])
    published = publish_version(own.sessions, context.claim, manifest, environment_digest=digest)
    return asdict(published)


def build_manifest(context: JobContext) -> Manifest:
    """Return the manifest of the job's version; nothing in it changes on a retry."""
    scope, verified = scope_of(context), context.output_of("verify")
    is_train = context.claim.kind is JobKind.TRAIN
    recipe, row, layout = context.net_recipe, context.model.row, context.model.layout
    environment = context.output_of("unlearn")["environment"]
    assert isinstance(environment, dict)
    return Manifest(
        files=_files(context),
        model=row.name,
        recipe_digest=parse_digest(row.recipe_digest),
        parent=None if scope.base is None else parse_digest(scope.base),
        job=context.claim.job_id,
        guarantee=made_by(context).guarantee,
        method="train" if is_train else made_by(context).name,
        evidence=parse_digest(str(verified["evidence"])),
        environment={
            **environment,
            "threads": recipe.execution.threads,
            "dtype": recipe.execution.dtype,
        },
        covers=scope.covers,
        settled=scope.covers if made_by(context).guarantee is Guarantee.EXACT else scope.settled,
        weights_digest=parse_digest(str(verified["weights_digest"])),
        plan_key_id=context.model.plan_key_id,
        retained_digest=parse_digest(str(verified["retained_digest"])),
        code_digest=parse_digest(str(environment["code_digest"])),
        factory=recipe.model.factory,
        factory_arguments=recipe.model.arguments,
        input_schema=input_schema(recipe, layout),
        label_schema=label_schema(layout),
        combine=recipe.model.combine if len(context.shards) > 1 else None,
        settings=settings_by(context),
    )


def _files(context: JobContext) -> tuple[ManifestFile, ...]:
    verified, store = context.output_of("verify"), context.installation.store
    weights = verified["files"]
    assert isinstance(weights, list)
    names = [*constituent_names(len(weights)), "evidence.json"]
    digests = [*weights, verified["evidence"]]
    return tuple(
        ManifestFile(name=name, digest=parse_digest(str(digest)), size=store.size(str(digest)))
        for name, digest in zip(names, digests, strict=True)
    )
