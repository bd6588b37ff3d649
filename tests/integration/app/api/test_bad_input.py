"""No input gives a 5xx, every refusal is a problem, and none repeats what was sent."""

import json
import socket
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.problems import problem_of
from tests.support.world import World

SECRET = "ann-secret-id"
JSON = {"Content-Type": "application/json"}

WRONG_BODIES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "#/subject_id"),
    "a list": ([SECRET], "#"),
    "an empty id": ({"subject_id": " \t "}, "#/subject_id"),
    "an id that is a number": ({"subject_id": 12}, "#/subject_id"),
    "a NUL": ({"subject_id": SECRET + "\0"}, "#/subject_id"),
    "a lone surrogate": ({"subject_id": SECRET + "\ud800"}, "#/subject_id"),
    "a long id": ({"subject_id": SECRET * 100}, "#/subject_id"),
    "a wrong type of subject": ({"subject_id": "a", "subject_type": SECRET.upper()}, "#/subject_type"),
    "a type with a line end": ({"subject_id": "a", "subject_type": "person\n"}, "#/subject_type"),
    "no record ids": ({"subject_id": "a", "record_ids": []}, "#/record_ids"),
    "too many record ids": ({"subject_id": "a", "record_ids": ["r"] * 1001}, "#/record_ids"),
    "a record id, no text": (
        {"subject_id": "a", "record_ids": ["r", {"x": SECRET}]},
        "#/record_ids/1",
    ),
    "a record id with a NUL": ({"subject_id": "a", "record_ids": ["r\0"]}, "#/record_ids/0"),
    "too many models": ({"subject_id": "a", "models": ["m"] * 101}, "#/models"),
    "a nameless model": ({"subject_id": "a", "models": [""]}, "#/models/0"),
    "a time without offset": ({"subject_id": "a", "due_at": "2027-01-01T00:00:00"}, "#/due_at"),
    "a time that is a number": ({"subject_id": "a", "due_at": 1}, "#/due_at"),
    "a time that is a number as text": ({"subject_id": "a", "due_at": "1893456000"}, "#/due_at"),
    "a time that overflows": ({"subject_id": "a", "due_at": "0001-01-01T00:00:00+14:00"}, "#/due_at"),
    "a time far away": ({"subject_id": "a", "due_at": "9999-12-31T23:59:59-12:00"}, "#/due_at"),
    "a wrong reason": ({"subject_id": "a", "reason_code": SECRET + "!"}, "#/reason_code"),
    "a wrong request id": ({"subject_id": "a", "request_id": SECRET}, "#/request_id"),
    "an unknown field": ({"subject_id": "a", SECRET: 1}, "#"),
    "an unknown field that is no text": ({"subject_id": "a", "\ud800": 1}, "#"),
    "a time of the data, not supported yet": (
        {"subject_id": "a", "effective_before": "2026-01-01T00:00:00Z"},
        "#",
    ),
    "a callback, not supported yet": ({"subject_id": "a", "callback_url": "https://x"}, "#"),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_body_of_the_wrong_shape_is_refused_with_a_pointer_and_without_the_input(
    product: httpx.Client, name: str
) -> None:
    body, pointer = WRONG_BODIES[name]
    answer = product.post("/deletions", content=json.dumps(body).encode(), headers=JSON)
    problem = problem_of(answer, 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == pointer
    assert SECRET not in answer.text
    assert product.get("/deletions").json()["items"] == []


BROKEN_BODIES = {
    "empty": b"",
    "not JSON": b"{" + SECRET.encode(),
    "not text": b"\xff\xfe\xfa",
    "deep": b'{"subject_id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "rather deep": b'{"subject_id":' + b"[" * 400 + b"]" * 400 + b"}",
    "NaN": b'{"subject_id": NaN}',
    "infinite": b'{"subject_id": "a", "due_at": -Infinity}',
    "a huge number": b'{"subject_id": ' + b"9" * 5000 + b"}",
    "a huge float": b'{"subject_id": "a", "due_at": 1e400}',
    "null": b"null",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_broken_body_is_refused(product: httpx.Client, name: str) -> None:
    answer = product.post("/deletions", content=BROKEN_BODIES[name], headers=JSON)
    assert answer.status_code in (400, 422)
    problem_of(answer, answer.status_code)
    assert SECRET not in answer.text


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense"])
def test_a_body_that_is_not_called_json_is_refused(product: httpx.Client, media_type: str) -> None:
    answer = product.post("/deletions", content=b'{"subject_id":"a"}', headers={"Content-Type": media_type})
    problem_of(answer, 415)


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "\u00e9".encode("latin-1").decode("latin-1"), "a\tb"])
def test_a_wrong_idempotency_key_is_refused(product: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1"), "Content-Type": "application/json"}
    problem_of(product.post("/deletions", content=b'{"subject_id":"a"}', headers=headers), 400)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "BREW"])
def test_a_wrong_method_is_a_405_with_allow(product: httpx.Client, method: str) -> None:
    answer = product.request(method, "/deletions")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]
    assert answer.headers["content-type"] == "application/problem+json"


UNKNOWN_PATHS = [
    "/", "/nix", "/deletions/", "/deletions/1", "/deletions/del_x", "/deletions/%00", "/deletions/del_%ff",
    f"/deletions/del_{'0' * 32}", f"/deletions/del_{'0' * 32}/receipt", f"/deletions/del_{'0' * 32}/events",
    f"/deletions/del_{'0' * 32}%0a", "/models/ghost", "/models/%00", "/models/ghost/versions", "/docs",
    "/models/churn/versions/0", "/models/churn/versions/99999999999999999999999", "/models/churn/versions/-1",
    "/models/churn/versions/%D9%A1", "/models/churn/versions/ghost", "/models/churn/aliases/ghost",
    "/models/churn/aliases/%00", "/models/churn/aliases/Current",
]  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN_PATHS)
def test_what_does_not_exist_is_a_404_problem(admin: httpx.Client, world: World, path: str) -> None:
    world.trained(subjects={"ann": 1})
    problem_of(admin.get(path), 404)


@pytest.mark.parametrize(
    "query",
    ["page=x", "page=%ff", "page=" + "A" * 600, "page=AAAA", "limit=0", "limit=201", "limit=x", "status=nix",
     "due_before=yesterday", "due_before=2027-01-01T00:00:00", "model=%00", "model=", "subject=1",
     "limit=" + "9" * 5000],
)  # fmt: skip
def test_a_wrong_query_is_refused(product: httpx.Client, query: str) -> None:
    answer = product.get(f"/deletions?{query}")
    assert answer.status_code in (400, 422)
    problem_of(answer, answer.status_code)


def test_an_announced_oversized_body_is_refused(product: httpx.Client) -> None:
    answer = product.post("/deletions", content=b" " * ((1 << 20) + 1), headers=JSON)
    problem_of(answer, 413)


def test_the_largest_body_that_is_allowed_is_read(product: httpx.Client) -> None:
    body = b'{"subject_id":"a"}'
    answer = product.post("/deletions", content=body + b" " * ((1 << 20) - len(body)), headers=JSON)
    assert answer.status_code == 202


def test_an_oversized_chunked_body_is_counted_and_refused_by_a_real_server(served: httpx.Client) -> None:
    # Head and first chunks only: the server must answer without waiting for the end of the body.
    head = (
        b"POST /deletions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection((served.base_url.host, served.base_url.port), timeout=10) as wire:
        wire.sendall(head + chunk * 17)
        answer = wire.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


def test_a_false_announcement_does_not_help(served: httpx.Client) -> None:
    with socket.create_connection((served.base_url.host, served.base_url.port), timeout=10) as wire:
        wire.sendall(b"POST /deletions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n")
        assert wire.makefile("rb").readline().split()[1] in (b"400", b"413")


_text = st.text(st.characters(), max_size=8)  # half surrogates too
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=6,
)
_FIELDS = [
    "subject_id", "subject_type", "record_ids", "models", "due_at", "reason_code", "request_id",
]  # fmt: skip
_MOSTLY_RIGHT = st.fixed_dictionaries(
    {"subject_id": _text},
    optional={
        "record_ids": st.lists(_text, min_size=1, max_size=3),
        "models": st.lists(_text, min_size=1, max_size=3),
        "due_at": st.datetimes().map(lambda time: f"{time.isoformat()}+13:59"),
        "reason_code": st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True),
        "request_id": st.uuids().map(str),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_MOSTLY_RIGHT | st.dictionaries(st.sampled_from(_FIELDS), _json) | _json)
def test_no_json_gives_a_5xx(product: httpx.Client, body: Any) -> None:
    answer = product.post("/deletions", content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code in (202, 422)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60),
    path=st.text(max_size=20),
    value=st.text(st.characters(max_codepoint=255), max_size=30),
)
def test_no_bytes_in_body_path_or_header_give_a_5xx(
    product: httpx.Client, body: bytes, path: str, value: str
) -> None:
    raw = value.encode("latin-1")
    headers = {"Content-Type": "application/json", "Idempotency-Key": raw, "If-Match": raw, "Range": raw}
    for target in ("/deletions", f"/models/{_quoted(path)}/versions/{_quoted(path)}/files/{_quoted(path)}"):
        assert product.post(target, content=body, headers=headers).status_code < 500
        assert product.get(target, headers=headers).status_code < 500


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))
