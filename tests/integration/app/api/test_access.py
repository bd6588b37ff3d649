"""API keys at the door: deny by default."""

import httpx
import pytest
from fastapi import FastAPI

from app.db.session import writing
from app.db.tables import ApiKey
from app.domain.access import Scope
from app.domain.terms import DEFAULT_TENANT
from app.services.api_keys import create_key, revoke_key
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import World

OPEN_PATHS = {"/livez", "/readyz", "/.well-known/jwks.json"}
NEEDED = {
    ("POST", "/deletions"): Scope.DELETIONS_CREATE,
    ("POST", "/class-deletions"): Scope.ADMIN,
    ("POST", "/rectifications"): Scope.RECORDS_CORRECT,
    ("GET", "/deletions"): Scope.DELETIONS_READ,
    ("GET", "/deletions/{deletion_id}"): Scope.DELETIONS_READ,
    ("DELETE", "/deletions/{deletion_id}"): Scope.DELETIONS_CANCEL,
    ("POST", "/deletions/{deletion_id}:approve"): Scope.ADMIN,
    ("POST", "/deletions/{deletion_id}:reject"): Scope.ADMIN,
    ("GET", "/deletions/{deletion_id}/events"): Scope.DELETIONS_READ,
    ("GET", "/deletions/{deletion_id}/receipt"): Scope.DELETIONS_READ,
    ("GET", "/models"): Scope.VERSIONS_READ,
    ("GET", "/models/{model}"): Scope.VERSIONS_READ,
    ("GET", "/models/{model}/versions"): Scope.VERSIONS_READ,
    ("GET", "/models/{model}/versions/{version}"): Scope.VERSIONS_READ,
    ("GET", "/models/{model}/versions/{version}/files/{name}"): Scope.VERSIONS_READ,
    ("HEAD", "/models/{model}/versions/{version}/files/{name}"): Scope.VERSIONS_READ,
    ("GET", "/models/{model}/aliases/{alias}"): Scope.VERSIONS_READ,
    ("PUT", "/models/{model}/aliases/{alias}"): Scope.ALIASES_WRITE,
}
CLASS, CHANGE = {"model": "m", "label": 0}, {"subject_id": "a", "record_id": "r", "changes": {"label": 0}}
BODIES = {
    ("POST", "/deletions"): {"subject_id": "a"},
    ("POST", "/class-deletions"): CLASS,
    ("POST", "/rectifications"): CHANGE,
    ("PUT", "/models/{model}/aliases/{alias}"): {"version": 1},
}


def _ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    filled = path.replace("{deletion_id}", "del_" + "0" * 32).format(
        model="m", version="1", name="f", alias="a"
    )
    return client.request(method, filled, json=BODIES.get((method, path)))


def test_every_route_that_is_not_open_is_in_the_table_of_scopes(service: FastAPI) -> None:
    found = {
        (method.upper(), path)
        for path, methods in service.openapi()["paths"].items()
        for method in methods
        if path not in OPEN_PATHS
    }
    assert found == set(NEEDED)


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_a_route_needs_a_key_with_its_scope_and_no_other(
    service: FastAPI, anonymous: httpx.Client, world: World, method: str, path: str
) -> None:
    answer = _ask(anonymous, method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    others = [scope for scope in Scope if scope not in (NEEDED[method, path], Scope.ADMIN)]
    assert _ask(client_of(service, world.key(*others)), method, path).status_code == 403
    for scope in (NEEDED[method, path], Scope.ADMIN):
        assert _ask(client_of(service, world.key(scope)), method, path).status_code in (200, 202, 404, 422)


WRONG_HEADERS = [
    "", "Bearer", "Bearer ", "Basic YTpi", "Bearer exp_", "Bearer \xff\xfe", "Bearer exp_%00",
    "Bearer exp_000000000000_" + "A" * 43, "exp_000000000000_" + "A" * 43,
]  # fmt: skip


@pytest.mark.parametrize("header", WRONG_HEADERS)
def test_a_wrong_key_is_a_401(anonymous: httpx.Client, header: str) -> None:
    answer = anonymous.get("/deletions", headers={"Authorization": header.encode("latin-1")})
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_every_character_of_a_key_counts(service: FastAPI, world: World) -> None:
    token = world.key()
    for place in range(len(token)):
        wrong = token[:place] + ("0" if token[place] != "0" else "1") + token[place + 1 :]
        assert client_of(service, wrong).get("/deletions").status_code == 401
    assert client_of(service, token[:-1]).get("/deletions").status_code == 401
    assert client_of(service, token).get("/deletions").status_code == 200


def test_a_revoked_and_an_expired_key_are_refused(service: FastAPI, world: World) -> None:
    key = create_key(world.sessions, tenant=DEFAULT_TENANT, name="k", scopes={Scope.ADMIN})
    assert client_of(service, key.token).get("/deletions").status_code == 200
    revoke_key(world.sessions, key.id, tenant=DEFAULT_TENANT)
    problem_of(client_of(service, key.token).get("/deletions"), 401, "unauthorized")
    short = create_key(
        world.sessions, tenant=DEFAULT_TENANT, name="k", scopes={Scope.ADMIN}, lifetime_seconds=60
    )
    assert client_of(service, short.token).get("/deletions").status_code == 200
    with writing(world.sessions) as session:
        session.get_one(ApiKey, short.id).expires_at = 1.0
    problem_of(client_of(service, short.token).get("/deletions"), 401, "unauthorized")


def test_only_the_hash_of_a_secret_is_stored(world: World) -> None:
    token = world.key()
    with writing(world.sessions) as session:
        (row,) = session.query(ApiKey).all()
    secret = token.split("_", 2)[2]
    assert secret not in repr(vars(row))
    assert len(row.secret_hash) == 32
