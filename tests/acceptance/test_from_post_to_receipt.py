"""A person is forgotten: from the posted request to the signed receipt."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.errors import ReceiptInvalid
from app.signing import verify
from models_store.manifest import digest_json
from models_store.tensors import tensor_digest, unpack
from tests.acceptance.conftest import Story
from tests.support.problems import problem_of

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Papers:
    """A receipt and the keys that verify it, as files."""

    receipt: Path
    keys: Path

    def statement(self) -> dict[str, Any]:
        return verify(self.receipt.read_text(), keys=json.loads(self.keys.read_text()))


@pytest.fixture
def papers(story: Story, tmp_path: Path) -> Papers:
    papers = Papers(receipt=tmp_path / "receipt", keys=tmp_path / "keys.json")
    papers.keys.write_text(story.service.admin.get("/.well-known/jwks.json").text)
    papers.receipt.write_text(story.service.admin.get(f"/deletions/{story.id}/receipt").text)
    return papers


def weights_of(story: Story, version: int | str, *, method: str = "GET") -> httpx.Response:
    return story.service.admin.request(method, f"/models/digits/versions/{version}/files/{WEIGHTS}")


def test_the_request_ends_completed_with_every_target_unlearned(story: Story) -> None:
    shown = story.service.show(story.id)
    outcomes = {target["model"]: target["truth"]["outcome"] for target in shown["targets"]}
    assert shown["status"] == "completed"
    assert outcomes == {"digits": "unlearned", "other": "unlearned"}
    assert {target["truth"]["num_records"] for target in shown["targets"]} == {len(story.subject.rows)}


def test_version_2_became_current_and_covers_every_record_of_the_subject(story: Story) -> None:
    version = story.service.version("digits", 2)
    moves = story.service.admin.get("/models/digits/aliases/current").json()["history"]
    assert [move["to_number"] for move in moves][:2] == [1, 2]
    assert (version["covers"], version["settled"]) == (3, 3)
    assert (version["method"], version["guarantee"]) == ("replay", "exact")
    assert version["parent"] == story.before["manifest_digest"]


def test_the_downloaded_weights_are_those_of_the_manifest_and_of_the_oracle(story: Story) -> None:
    version = story.service.version("digits")
    tensors, _ = unpack(weights_of(story, version["number"]).content)
    digest = digest_json([tensor_digest(tensors)])
    assert digest == version["weights_digest"] == version["manifest"]["weights_digest"]
    assert story.oracle["is_equal"]
    assert story.service.version("digits", 2)["weights_digest"] == story.oracle["oracle_digest"]
    assert story.oracle["oracle_digest"] != story.before["weights_digest"]


def test_the_old_version_is_gone_for_get_and_head_alike(story: Story) -> None:
    problem_of(weights_of(story, 1), 410, "version-purged")
    head = weights_of(story, 1, method="HEAD")
    assert (head.status_code, head.headers["content-type"]) == (410, "application/problem+json")
    assert story.service.version("digits", 1)["status"] == "purged"


def test_the_alias_does_not_go_back(story: Story) -> None:
    answer = story.service.admin.put("/models/digits/aliases/current", json={"version": 1})
    problem_of(answer, 409, "version-tainted")
    assert story.service.version("digits")["number"] > 1


def test_the_receipt_verifies_offline(story: Story, papers: Papers) -> None:
    command = ("expunge", "receipt", "verify", str(papers.receipt), "--keys", str(papers.keys))
    assert json.loads(story.service.home.run(*command).out)["request"] == story.id


def test_the_receipt_lists_what_was_purged_and_how_many_records_were_erased(
    story: Story, papers: Papers
) -> None:
    part = next(part for part in papers.statement()["models"] if part["model"] == "digits")
    assert part["purged"]["versions"] == [story.before["manifest_digest"]]
    assert part["weights_digest"] == story.weights_digest
    assert part["num_records_erased"] == len(story.subject.rows)
    assert (part["outcome"], part["remains"]) == ("unlearned", [])


def test_the_record_bytes_are_zeros(story: Story) -> None:
    assert story.subject.is_erased(story.service.home)


def test_no_flipped_byte_of_the_receipt_passes(story: Story, papers: Papers) -> None:
    token, keys = papers.receipt.read_bytes(), json.loads(papers.keys.read_text())
    for place in range(len(token)):
        with pytest.raises(ReceiptInvalid):
            verify(flipped(token, place).decode("latin-1"), keys=keys)
    papers.receipt.write_bytes(flipped(token, len(token) // 2))
    command = ("expunge", "receipt", "verify", str(papers.receipt), "--keys", str(papers.keys))
    assert story.service.home.run(*command, code=1).err.startswith("error: the receipt does not verify")


def flipped(token: bytes, place: int) -> bytes:
    return token[:place] + bytes([token[place] ^ 1]) + token[place + 1 :]
