"""Routes of models, versions, files and aliases.

``versions:read`` is an administrator's scope: a version's manifest is signed whole and says how many
tombstones it covers, so whoever reads it sees when somebody who was held is forgotten. Give it to what
serves models, never to a product that posts deletions.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from app.api.deps import (
    AliasName,
    ContextDep,
    MovesAliases,
    PathName,
    ReadsVersions,
    entity_tags,
    require_json,
)
from app.api.errors import Documented, documented
from app.api.files import file_response
from app.api.repeating import RepeatingRoute
from app.api.schemas import AdminModelOut, AliasIn, AliasOut, ModelOut, ModelsOut, VersionOut, VersionsOut
from app.services.move_alias import Expectation, point_alias
from app.services.show_models import (
    ModelView,
    list_models,
    list_versions,
    open_file,
    show_alias,
    show_model,
    show_version,
)

router = APIRouter(prefix="/models", tags=["models"], route_class=RepeatingRoute)

_FILE = "/{model}/versions/{version}/files/{name}"
_ALIAS = "/{model}/aliases/{alias}"
_BYTES: Documented = {
    200: {"content": {"application/octet-stream": {}}, "description": "The bytes"},
    206: {"description": "A part of them"},
    304: {"description": "Unchanged"},
}
_FILE_ANSWERS = documented(400, 404, 410, 416) | _BYTES
IfNoneMatch = Annotated[str | None, Header(description="The ETag of a copy that the caller has.")]
IfMatch = Annotated[str | None, Header(description="The quoted manifest digest it must point at now.")]


@router.get("", operation_id="listModels", responses=documented())
def get_models(context: ContextDep, caller: ReadsVersions) -> ModelsOut:
    """List the models by name; for admins with the number of their tombstones."""
    views = list_models(context.sessions, tenant=caller.tenant)
    return ModelsOut.model_validate({"items": [_shaped(view, is_admin=caller.is_admin) for view in views]})


@router.get("/{model}", operation_id="getModel", responses=documented(404))
def get_model(model: PathName, context: ContextDep, caller: ReadsVersions) -> AdminModelOut | ModelOut:
    """Return one model with its aliases."""
    view = show_model(context.sessions, model, tenant=caller.tenant)
    return _shaped(view, is_admin=caller.is_admin)


@router.get("/{model}/versions", operation_id="listVersions", responses=documented(404))
def get_versions(model: PathName, context: ContextDep, caller: ReadsVersions) -> VersionsOut:
    """List the versions of a model, oldest first; purged ones too."""
    return VersionsOut.model_validate({"items": list_versions(context.sessions, model, tenant=caller.tenant)})


@router.get("/{model}/versions/{version}", operation_id="getVersion", responses=documented(404))
def get_version(model: PathName, version: PathName, context: ContextDep, caller: ReadsVersions) -> VersionOut:
    """Return a version, by its number or by an alias, with its manifest.

    It tells how much the model has forgotten: `versions:read` is a scope for administrators and for what
    serves models, not for products that post deletions.
    """
    return VersionOut.model_validate(show_version(context.sessions, model, version, tenant=caller.tenant))


@router.head(_FILE, operation_id="headFile", response_class=Response, responses=_FILE_ANSWERS)
@router.get(_FILE, operation_id="getFile", response_class=Response, responses=_FILE_ANSWERS)
def get_file(
    model: PathName, version: PathName, name: PathName, context: ContextDep, caller: ReadsVersions,
    if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Return a file of a version that may be fetched; 410 once the version saw somebody forgotten."""
    file = open_file(
        context.sessions, model, version, name=name, tenant=caller.tenant, store=context.store
    )  # fmt: skip
    return file_response(file, if_none_match=if_none_match)


@router.get(_ALIAS, operation_id="getAlias", responses=documented(404))
def get_alias(
    model: PathName, alias: AliasName, response: Response, context: ContextDep, caller: ReadsVersions
) -> AliasOut:
    """Return where an alias points and where it pointed; its ETag is the manifest's digest."""
    view = show_alias(context.sessions, model, alias, tenant=caller.tenant)
    response.headers["ETag"] = f'"{view.manifest_digest}"'
    return AliasOut.model_validate(view)


@router.put(
    _ALIAS, operation_id="moveAlias", dependencies=[Depends(require_json)],
    responses=documented(404, 409, 412, 413, 415, 422),
)  # fmt: skip
def put_alias(
    body: AliasIn, model: PathName, alias: AliasName, response: Response, context: ContextDep,
    caller: MovesAliases, if_match: IfMatch = None,
) -> AliasOut:  # fmt: skip
    """Point an alias at a version; never at one that has forgotten less."""
    expected = None if if_match is None else Expectation(entity_tags(if_match))
    point_alias(
        context.sessions, model, alias=alias, number=body.version, expected=expected, caller=caller
    )  # fmt: skip
    return get_alias(model, alias, response, context, caller)


def _shaped(view: ModelView, *, is_admin: bool) -> AdminModelOut | ModelOut:
    return (AdminModelOut if is_admin else ModelOut).model_validate(view)
