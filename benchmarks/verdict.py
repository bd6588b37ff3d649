"""The end of the demo: every promise checked from outside, as a table that a person can read.

Each check could fail: it compares with what another process found, or with the answer to doing nothing.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any

import httpx
from rich.table import Table

from benchmarks.client import Download
from models_store.manifest import Manifest, canonical_json, digest_json
from models_store.tensors import tensor_digest, unpack

SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Check:
    """One line of the table; ``holds`` None is a figure that only informs."""

    name: str
    result: str
    meaning: str
    holds: bool | None = None


def weights_digest_of(version: Download) -> str:
    """Return the weights digest of a version, from the bytes of its files alone, in shard order."""
    manifest = Manifest.from_bytes(canonical_json(version.facts["manifest"]))
    parts = [unpack(version.files[file.name])[0] for file in manifest.constituents]
    return digest_json([tensor_digest(part) for part in parts])


def digest_checks(*, before: str, after: str, oracle: str, num_records: int) -> list[Check]:
    """Compare the downloaded weights with the oracle's, and what doing nothing would have left."""
    return [
        Check(
            name="new version = oracle",
            result=f"{_short(after)} = {_short(oracle)}",
            meaning=f"the downloaded weights are, bit for bit, those of a process that never had the "
            f"{num_records} records",
            holds=after == oracle,
        ),
        Check(
            name="old version is not",
            result=f"{_short(before)} ≠ {_short(oracle)}",
            meaning="the comparison would have caught a service that did nothing",
            holds=before != oracle,
        ),
    ]


def revocation_checks(*, fetched: httpx.Response, moved: httpx.Response) -> list[Check]:
    """Judge the answers to fetching the old version and to pointing the alias back at it."""
    return [
        Check(
            name="old version over HTTP",
            result=_answer(fetched),
            meaning="nobody fetches a model that remembers the person",
            holds=fetched.status_code == httpx.codes.GONE,
        ),
        Check(
            name="alias back to it, by an admin",
            result=_answer(moved),
            meaning="no rollback brings the person back",
            holds=moved.status_code == httpx.codes.CONFLICT,
        ),
    ]


def receipt_check(*, is_valid: bool, is_forgery_valid: bool, is_ours: bool) -> Check:
    """Judge the product's receipt: as it came, with one character changed, and against the subject id."""
    words = {
        "valid" if is_valid else "NOT VALID": is_valid,
        "a changed one accepted" if is_forgery_valid else "a changed one refused": not is_forgery_valid,
        "opens with the subject id" if is_ours else "names somebody else": is_ours,
    }
    return Check(
        name="receipt, verified offline",
        result="; ".join(words),
        meaning="signed by the service's key, about this person and nobody else",
        holds=all(words.values()),
    )


def purge_check(full_receipt: str, *, manifest_digest: str, num_records: int) -> Check:
    """Judge what the admin's receipt lists as destroyed."""
    statement = statement_of(full_receipt)
    purged = statement["models"][0]["purged"]
    num_erased = sum(each["num_records_erased"] for each in statement["datasets"])
    return Check(
        name="destroyed, says the receipt",
        result=f"{len(purged['versions'])} version, {purged['num_checkpoints']} checkpoints, "
        f"{num_erased} records",
        meaning="what saw the person is gone, and so are the records themselves",
        holds=manifest_digest in purged["versions"] and num_erased == num_records,
    )


def is_about(receipt: str, *, subject_id: str, nonce: str) -> bool:
    """Whether a receipt's commitment opens with the nonce of the 202 and a subject id."""
    key = urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
    opened = hmac.digest(key, b"person\0" + subject_id.encode(), "sha256").hex()
    return bool(statement_of(receipt)["commitment"] == opened)


def statement_of(receipt: str) -> dict[str, Any]:
    """Return what a receipt states, unverified."""
    body = receipt.split(".")[1]
    statement: dict[str, Any] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return statement


def forged(receipt: str) -> str:
    """Return a receipt that states something else under the same signature."""
    head, body, signature = receipt.split(".")
    changed = "A" if body[40] != "A" else "B"
    return ".".join([head, body[:40] + changed + body[41:], signature])


def table_of(checks: list[Check], *, title: str) -> Table:
    """Return the table."""
    table = Table("", "check", "result", "what it means", title=title, show_lines=True)
    marks = {True: "[green]yes[/green]", False: "[bold red]NO[/bold red]", None: "·"}
    for check in checks:
        table.add_row(marks[check.holds], check.name, check.result, check.meaning)
    return table


def _answer(response: httpx.Response) -> str:
    try:
        title = f" {response.json()['title']}"
    except (ValueError, KeyError, TypeError):
        title = ""
    return f"{response.status_code}{title}"


def _short(digest: str) -> str:
    return f"{digest[:SHOWN_DIGITS]}…"
