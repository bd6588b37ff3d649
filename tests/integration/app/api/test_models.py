"""Models, versions, files and aliases over HTTP."""

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.domain.access import Scope
from app.domain.terms import ModelId, TenantName
from app.services.publish import publish
from app.services.purge import purge
from app.services.references import put_blob
from models_store.blobs import BlobStore
from models_store.manifest import Manifest, ManifestFile, canonical_json, constituent_names
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import ENVIRONMENT, World

WEIGHTS = b"weights 1"
FILE = "/models/churn/versions/1/files/weights.safetensors"


@pytest.fixture
def model(world: World) -> ModelId:
    return world.trained(subjects={"ann": 1, "bob": 2}, weights=WEIGHTS)


def _move(client: httpx.Client, version: int, alias: str = "current", **headers: str) -> httpx.Response:
    return client.put(f"/models/churn/aliases/{alias}", json={"version": version}, headers=headers)


def test_a_model_and_its_versions_are_listed_with_their_manifests(
    admin: httpx.Client, model: ModelId
) -> None:
    shown = admin.get("/models").json()["items"]
    assert [(item["name"], item["aliases"]) for item in shown] == [("churn", {"current": 1})]
    assert admin.get("/models/churn").json() == shown[0]
    (version,) = admin.get("/models/churn/versions").json()["items"]
    assert (version["number"], version["status"], version["aliases"]) == (1, "published", ["current"])
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert version["files"] == [{"name": "weights.safetensors", "digest": digest, "size": len(WEIGHTS)}]
    assert version["manifest"]["weights_digest"] == digest
    for name in ("1", "current"):
        assert admin.get(f"/models/churn/versions/{name}").json() == version


def test_a_version_of_several_constituents_says_how_they_are_combined(
    admin: httpx.Client, world: World, model: ModelId
) -> None:
    assert admin.get("/models/churn/versions/1").json()["combine"] is None
    world.sealed("ann")
    claim = world.claim()
    single = world.manifest(claim, name="churn", weights=b"one", covers=None)
    parts = [put_blob(world.sessions, part, claim=claim, store=world.store) for part in (b"one", b"other")]
    files = tuple(
        ManifestFile(name=name, digest=digest, size=world.store.size(digest))
        for name, digest in zip(constituent_names(2), parts, strict=True)
    )
    manifest = replace(single, files=files, combine="vote")
    put_blob(world.sessions, manifest.to_bytes(), claim=claim, store=world.store)
    publish(world.sessions, claim, manifest, environment_digest=ENVIRONMENT)
    version = admin.get("/models/churn/versions/current").json()
    assert version["combine"] == "vote"
    assert Manifest.from_bytes(canonical_json(version["manifest"])) == manifest
    names = ["weights-000.safetensors", "weights-001.safetensors"]
    assert [file["name"] for file in version["files"]] == names
    assert admin.get(f"/models/churn/versions/2/files/{names[1]}").content == b"other"


def test_a_file_is_served_with_its_digest_as_etag_to_get_and_head(
    admin: httpx.Client, model: ModelId
) -> None:
    got, head = admin.get(FILE), admin.head(FILE)
    assert (got.content, head.content) == (WEIGHTS, b"")
    for answer in (got, head):
        assert answer.headers["etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert answer.headers["content-length"] == str(len(WEIGHTS))
        assert answer.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
def test_who_has_the_file_already_gets_a_304(admin: httpx.Client, model: ModelId, form: str) -> None:
    tag = form.format(hashlib.sha256(WEIGHTS).hexdigest())
    answer = admin.get(FILE, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"]
    assert admin.get(FILE, headers={"If-None-Match": '"another"'}).content == WEIGHTS


def test_a_range_is_served_and_an_impossible_one_is_a_problem(admin: httpx.Client, model: ModelId) -> None:
    part = admin.get(FILE, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, WEIGHTS[2:5])
    refused = admin.get(FILE, headers={"Range": "bytes=100-"})
    problem_of(refused, 416)
    assert refused.headers["content-range"] == f"bytes */{len(WEIGHTS)}"
    problem_of(admin.get(FILE, headers={"Range": "miles=1-2"}), 400)


WRONG_NAMES = [
    "%2e%2e", "..%2f..%2fexpunge.db", "%2e%2e%2f%2e%2e%2fkeys%2fhmac.key", "..%5c..%5cx", "%00",
    "weights.safetensors%00", "WEIGHTS.SAFETENSORS", "%ff",
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_file_name_is_never_a_path(admin: httpx.Client, model: ModelId, name: str) -> None:
    problem_of(admin.get(f"/models/churn/versions/1/files/{name}"), 404)


@pytest.mark.parametrize("name", ["..", "../../../../keys/hmac.key", ".", "//etc/passwd"])
def test_dots_on_the_wire_lead_nowhere(served: httpx.Client, model: ModelId, name: str) -> None:
    # Raw, because clients take such dots out before they send.
    key = served.headers["authorization"]
    head = f"GET /models/churn/versions/1/files/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
    with socket.create_connection((served.base_url.host, served.base_url.port), timeout=10) as wire:
        wire.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = wire.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"application/problem+json" in answer


def test_a_revoked_version_is_gone_and_so_is_a_purged_one(
    admin: httpx.Client, world: World, model: ModelId, tmp_path: Path
) -> None:
    world.sealed("ann")
    claim = world.claim()
    world.publish(claim, weights=b"weights 2")
    problem_of(admin.get(FILE), 410, "version-revoked")
    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    problem_of(admin.get(FILE), 410, "version-purged")
    problem_of(admin.get(FILE, headers={"If-None-Match": "*"}), 410, "version-purged")
    assert admin.head(FILE).status_code == 410
    assert admin.get("/models/churn/versions/1").json()["purged_at"] is not None
    current = admin.get("/models/churn/versions/current/files/weights.safetensors")
    assert current.content == b"weights 2"


class _Hurried(BlobStore):
    """A store in which something happens just after a file was found, or just after it was measured."""

    run: Callable[[], object]
    is_measured_first: bool

    def path(self, digest: str) -> Path:
        """Find the file."""
        found = super().path(digest)
        if not self.is_measured_first:
            self.run()
            return found
        place = _Measured(found)
        place.run = self.run
        return place


class _Measured(type(Path())):  # type: ignore[misc]  # the class of this platform's paths
    run: Callable[[], object]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Measure the file, then let the thing happen."""
        found = Path(self).stat()
        self.run()
        return found


@pytest.mark.parametrize("is_measured_first", [False, True])
def test_a_purge_that_overtakes_a_download_makes_it_gone_and_not_an_error(
    admin: httpx.Client, service: FastAPI, world: World, model: ModelId, tmp_path: Path,
    is_measured_first: bool,
) -> None:  # fmt: skip
    world.sealed("ann")
    claim = world.claim()

    def overtake() -> None:
        world.publish(claim, weights=b"weights 2")
        purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)

    context = service.state.context
    store = _Hurried(context.settings.resolved_store_url)
    store.run, store.is_measured_first = overtake, is_measured_first
    service.state.context = replace(context, store=store)
    problem_of(admin.get(FILE), 410, "version-purged")


def test_only_admins_see_how_many_tombstones_a_model_has(
    admin: httpx.Client, service: FastAPI, world: World, model: ModelId
) -> None:
    world.sealed("ann")
    with client_of(service, world.key(Scope.VERSIONS_READ)) as reader:
        for path in ("/models", "/models/churn"):
            assert '"num_sealed":1' in admin.get(path).text
            assert "num_sealed" not in reader.get(path).text


def test_bytes_that_were_changed_on_disk_are_not_served(
    admin: httpx.Client, world: World, model: ModelId
) -> None:
    path = world.store.path(world.digest(WEIGHTS))
    path.chmod(0o600)
    path.write_bytes(b"weights X")
    problem_of(admin.get(FILE), 500, "stored-file-damaged")


def test_an_alias_is_made_moved_and_remembers_its_way(
    admin: httpx.Client, world: World, model: ModelId
) -> None:
    world.train(model, name="churn", weights=b"weights 2")
    made = _move(admin, 1, "canary")
    assert (made.status_code, made.json()["version"]) == (200, 1)
    assert _move(admin, 2, "canary").json()["history"][-1]["from_number"] == 1
    shown = admin.get("/models/churn/aliases/canary")
    assert [move["to_number"] for move in shown.json()["history"]] == [1, 2]
    assert shown.headers["etag"] == f'"{shown.json()["manifest_digest"]}"'
    assert admin.get("/models/churn/versions/canary").json()["number"] == 2
    # Back is lawful as long as nobody was forgotten between the two.
    assert _move(admin, 1).json()["version"] == 1
    before = admin.get("/models/churn/aliases/current").json()
    assert _move(admin, 1).json() == before


def test_if_match_guards_an_alias_against_a_race(admin: httpx.Client, world: World, model: ModelId) -> None:
    seen = admin.get("/models/churn/aliases/current").headers["etag"]
    world.train(model, name="churn", weights=b"weights 2")
    problem_of(_move(admin, 1, **{"If-Match": seen}), 412, "alias-moved")
    problem_of(_move(admin, 1, "new", **{"If-Match": "*"}), 412, "alias-moved")
    problem_of(_move(admin, 1, **{"If-Match": "garbage"}), 412, "alias-moved")
    seen = admin.get("/models/churn/aliases/current").headers["etag"]
    assert _move(admin, 1, **{"If-Match": f'"other", {seen}'}).status_code == 200
    assert _move(admin, 2, **{"If-Match": "*"}).status_code == 200


def test_no_alias_moves_back_to_less_coverage_or_to_a_tainted_version(
    admin: httpx.Client, world: World, model: ModelId, tmp_path: Path
) -> None:
    world.train(model, name="churn", weights=b"weights 2")
    request_id = world.sealed("ann")
    problem_of(_move(admin, 1), 409, "version-tainted")  # sealed is enough
    claim = world.claim()
    world.publish(claim, weights=b"weights 3")
    problem_of(_move(admin, 2), 409, "version-tainted")
    problem_of(_move(admin, 1, "rollback"), 409, "version-tainted")
    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    problem_of(_move(admin, 1), 409, "version-tainted")
    assert admin.get("/models/churn/aliases/current").json()["version"] == 3
    assert world.request(request_id).status == "running"


def test_a_clean_version_that_covers_less_is_refused_for_its_coverage(
    admin: httpx.Client, world: World, model: ModelId
) -> None:
    # No training met a held-out record: nothing is tainted, only the numbers differ.
    world.hold_out("zoe", dataset="churn-data", row=50)
    world.sealed("zoe")
    claim = world.claim()
    world.publish(claim, weights=b"weights 2")
    problem_of(_move(admin, 1), 409, "coverage-would-fall")


@pytest.mark.parametrize("body", [{}, {"version": 0}, {"version": "1"}, {"version": 1.5}, {"version": True},
                                  {"version": 2**40}, {"version": 1, "force": True}, [1]])  # fmt: skip
def test_a_wrong_body_moves_no_alias(admin: httpx.Client, model: ModelId, body: object) -> None:
    answer = admin.put("/models/churn/aliases/current", json=body)
    problem_of(answer, 422, "invalid-request")


def test_an_alias_to_nowhere_is_a_404(admin: httpx.Client, model: ModelId) -> None:
    problem_of(_move(admin, 9), 404)
    problem_of(_move(admin, 1, "1"), 404)
    problem_of(admin.put("/models/ghost/aliases/current", json={"version": 1}), 404)


def test_another_tenants_models_do_not_exist(service: FastAPI, world: World, model: ModelId) -> None:
    other = client_of(service, world.key(Scope.ADMIN, tenant=TenantName("other")))
    assert other.get("/models").json() == {"items": []}
    for path in ("/models/churn", "/models/churn/versions", "/models/churn/versions/1", FILE):
        problem_of(other.get(path), 404, "not-found")
    problem_of(_move(other, 1), 404, "not-found")
