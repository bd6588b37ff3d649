"""The short way to the busiest endpoints: the same answer to the byte, and only for what is not unusual."""

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request

from app.api.plain import plain_post, plain_read
from app.domain.access import Scope
from tests.support.client import client_of
from tests.support.world import World

FAR = 4e9
STATES = {
    "open": {"reveal_at": FAR},
    "hidden": {"status": "completed", "completed_at": 1.0, "reveal_at": FAR},
    "completed": {"status": "completed", "completed_at": 1.0, "reveal_at": 1.0},
    "failed": {"status": "failed", "reveal_at": FAR},
}
ID = "del_" + "0" * 32
KEY = f"exp_{'0' * 12}_{'0' * 43}"
PLAIN = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
BODY = b'{"subject_id": "ann"}'


def _both_ways(client: httpx.Client, method: str, path: str, **sent: object) -> list[httpx.Response]:
    """Return the answers of the short way and of FastAPI's, which takes a scheme in any spelling."""
    token = client.headers["authorization"].split()[1]
    return [
        client.request(
            method, path, headers={"Authorization": f"{scheme} {token}", "Idempotency-Key": "k"}, **sent
        )
        for scheme in ("Bearer", "bearer")
    ]


def _said(answer: httpx.Response) -> tuple[object, ...]:
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scope", [Scope.DELETIONS_READ, Scope.ADMIN])
def test_a_status_is_the_same_both_ways(service: FastAPI, world: World, state: str, scope: Scope) -> None:
    world.trained(subjects={"ann": 3})
    request_id = world.post("ann")
    world.shift(request_id, **STATES[state])
    short, long = _both_ways(client_of(service, world.key(scope)), "GET", f"/deletions/{request_id}")
    assert short.status_code == 200
    assert _said(short) == _said(long)


@pytest.mark.parametrize("wish", [{}, {"reason_code": "art17", "due_at": "2400-01-31T12:00:00+02:00"}])
def test_an_acknowledgement_is_the_same_both_ways(product: httpx.Client, wish: dict[str, str]) -> None:
    short, long = _both_ways(product, "POST", "/deletions", json={"subject_id": " Zoe\u0308 ", **wish})
    assert short.status_code == 202
    assert _said(short) == _said(long)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/deletions/{ID}", {}),
        ("/deletions/del_short", {}),
        ("/deletions", {"subject_id": 7}),
        ("/deletions", {"subject_id": "ann", "models": ["nobody's"]}),
        ("/deletions", {"subject_id": "ann", "due_at": "2001-01-01T00:00:00Z"}),
        ("/deletions", []),
    ],
)
def test_a_refusal_is_the_same_both_ways(product: httpx.Client, path: str, body: object) -> None:
    method, sent = ("GET", {}) if path != "/deletions" else ("POST", {"json": body})
    short, long = _both_ways(product, method, path, **sent)
    assert short.status_code in (404, 422)
    assert _said(short) == _said(long)


def _request(
    service: FastAPI, headers: dict[str, str], *, body: bytes = b"", deletion_id: str = ID
) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": b"", "app": service,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "path_params": {"deletion_id": deletion_id},
    }  # fmt: skip
    return Request(scope, receive)


def test_a_plain_request_goes_the_short_way(service: FastAPI) -> None:
    read = anyio.run(plain_read, _request(service, PLAIN))
    post = anyio.run(plain_post, _request(service, PLAIN | {"idempotency-key": '"k"'}, body=BODY))
    assert read is not None
    assert post is not None
    assert (read["deletion_id"], read["caller"].scope) == (ID, Scope.DELETIONS_READ)
    assert (post["body"].subject_id, post["key"], post["caller"].token) == ("ann", "k", KEY)


@pytest.mark.parametrize("deletion_id", [ID + "0", ID + "\n", ID.upper(), ""])
def test_an_id_of_another_form_goes_the_long_way(service: FastAPI, deletion_id: str) -> None:
    assert anyio.run(plain_read, _request(service, PLAIN, deletion_id=deletion_id)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"Bearer  {KEY}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer exp_"},
        {"content-type": ""},
        {"content-type": "application/json; charset=latin-1"},
        {"idempotency-key": ""},
        {"idempotency-key": "\u00e9"},
    ],
)
def test_an_unusual_header_goes_the_long_way(service: FastAPI, headers: dict[str, str]) -> None:
    assert anyio.run(plain_post, _request(service, PLAIN | headers, body=BODY)) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b"{}", BODY[:-1] + b', "subject": "x"}']
)
def test_an_unusual_body_goes_the_long_way(service: FastAPI, body: bytes) -> None:
    request = _request(service, PLAIN, body=body)
    assert anyio.run(plain_post, request) is None
    assert not hasattr(request.state, "own_id")
