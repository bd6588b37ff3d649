"""The HTTP side of the demo: what a product backend, an admin and a consumer of models ask the service."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

READY_SECONDS = 60.0
POLL_SECONDS = 0.2


class AnswerUnexpected(Exception):
    """The service answered otherwise than it promises; the message says what was asked."""


@dataclass(frozen=True)
class Download:
    """A version as it was fetched: its description and the bytes of its files, by name."""

    facts: dict[str, Any]
    files: dict[str, bytes]


class Client:
    """One API key's view of the service."""

    def __init__(self, base_url: str, *, key: str) -> None:
        self._http = httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30.0)

    def answer(self, method: str, path: str, *, body: dict[str, Any] | None = None) -> httpx.Response:
        """Return any answer, whatever its status."""
        return self._http.request(method, path, json=body)

    def get(self, path: str) -> httpx.Response:
        """Return an answer that must be a success."""
        return _required(self.answer("GET", path), path)

    def post_deletion(self, subject_id: str) -> dict[str, Any]:
        """Ask that a subject be forgotten; return the acknowledgement of the 202."""
        answer = self.answer("POST", "/deletions", body={"subject_id": subject_id})
        acknowledged: dict[str, Any] = _required(answer, "/deletions").json()
        return acknowledged

    def evidence(self, model: str, version: int | str) -> dict[str, Any]:
        """Return the checks that a version was published on."""
        found: dict[str, Any] = self.get(f"/models/{model}/versions/{version}/files/evidence.json").json()
        return found

    def download(self, model: str, version: int | str) -> Download:
        """Fetch every file of a version and compare each with the digest that names it.

        Raises:
            AnswerUnexpected: a file is not what its digest says.
        """
        path = f"/models/{model}/versions/{version}"
        facts = self.get(path).json()
        files = {each["name"]: self.get(f"{path}/files/{each['name']}").content for each in facts["files"]}
        for each in facts["files"]:
            if hashlib.sha256(files[each["name"]]).hexdigest() != each["digest"]:
                raise AnswerUnexpected(f"{path}/files/{each['name']} is not what its digest says")
        return Download(facts=facts, files=files)


def wait_until_ready(base_url: str, *, check: Callable[[], None], path: str = "/readyz") -> None:
    """Wait until the service takes traffic; ``check`` raises when its process is gone.

    Raises:
        AnswerUnexpected: it never became ready.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        check()
        try:
            if httpx.get(f"{base_url}{path}", timeout=1.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(POLL_SECONDS)
    raise AnswerUnexpected(f"{base_url} is not ready after {READY_SECONDS:.0f} s")


def _required(answer: httpx.Response, path: str) -> httpx.Response:
    if not answer.is_success:
        raise AnswerUnexpected(f"{answer.request.method} {path} answered {answer.status_code}: {answer.text}")
    return answer
