"""What is left when all is calm: rows, blobs, receipts, processes, traces, as plain facts for the checker.

Reads the database, the store, the data files and the HTTP answers; judges nothing.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.db.tables import Table
from app.domain.errors import ReceiptInvalid
from app.signing import verify
from benchmarks.chaos.installation import Installation
from models_store.blobs import BlobStore

NUM_TRACED = 60
CLEAR_ID = re.compile(rb"(?:synthetic|stranger)-\d{6}")


@dataclass(frozen=True)
class RequestLeft:
    """A request at the end; ``receipt`` says whose it is, None when there is none that verifies."""

    id: str
    status: str
    receipt: str | None
    keeps_hashes: bool
    has_whole_chain: bool = True


@dataclass(frozen=True)
class JobLeft:
    """A job at the end."""

    id: str
    model: str
    kind: str
    status: str
    owner: str | None
    num_versions: int
    error: str | None = None


@dataclass(frozen=True)
class VersionLeft:
    """A version at the end."""

    model: str
    number: int
    covers: int
    settled: int
    manifest_digest: str


@dataclass(frozen=True)
class Move:
    """One move of the alias ``current``, in order."""

    model: str
    from_number: int | None
    to_number: int


@dataclass(frozen=True)
class Remains:
    """Everything that the checker looks at besides the history."""

    requests: list[RequestLeft] = field(default_factory=list)
    jobs: list[JobLeft] = field(default_factory=list)
    versions: list[VersionLeft] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    current: dict[str, int] = field(default_factory=dict)
    # Per model, the tombstone numbers in order and the number that the model says it has given.
    tombstones: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()
    damaged_blobs: frozenset[str] = frozenset()
    referenced: frozenset[str] = frozenset()
    registered: frozenset[str] = frozenset()
    leftovers: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    exit_codes: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What the database and the data files held of everybody before the first post, by subject id.

    ``hashes`` are the random or keyed values that only this subject's rows contain; ``places`` are rows.
    """

    hashes: dict[str, list[bytes]]
    places: dict[str, list[tuple[str, int]]]


def subjects_known(own: Installation, *, ids: Iterable[str]) -> Known:
    """Note the hashes and places of these subjects, to look for them afterwards."""
    keyring = own.keyring
    named = {keyring.subject_refs(name, subject_type="person")[0]: name for name in ids}
    query = (
        "SELECT r.dataset_id, r.row, r.subject_ref, r.record_ref, r.salt, p.token "
        "FROM records r LEFT JOIN models m ON m.dataset_id = r.dataset_id "
        "LEFT JOIN placements p ON p.model_id = m.id AND p.row = r.row"
    )
    hashes: dict[str, set[bytes]] = {}
    places: dict[str, set[tuple[str, int]]] = {}
    for row in own.rows(query):
        subject = named[bytes(row["subject_ref"])]
        values = (row[name] for name in ("record_ref", "salt", "token"))
        hashes.setdefault(subject, set()).update(bytes(value) for value in values if value is not None)
        places.setdefault(subject, set()).add((row["dataset_id"], row["row"]))
    return Known(
        hashes={name: sorted(found) for name, found in hashes.items()},
        places={name: sorted(found) for name, found in places.items()},
    )


def collect(own: Installation, *, known: Known, forgotten: list[str]) -> Remains:
    """Look at everything; the API and the workers run and have nothing to do, and are stopped here."""
    requests = _requests(own)
    codes = own.stop_all()
    store = BlobStore(own.store)
    blobs = frozenset(store.digests())
    return Remains(
        requests=requests,
        jobs=_jobs(own),
        versions=[VersionLeft(**row) for row in own.rows(_VERSIONS)],
        moves=[Move(**row) for row in own.rows(_MOVES)],
        current={row["model"]: row["number"] for row in own.rows(_CURRENT)},
        tombstones=_tombstones(own),
        blobs=blobs,
        damaged_blobs=frozenset(digest for digest in blobs if not _is_whole(own.store, digest)),
        referenced=frozenset(row["digest"] for row in own.rows("SELECT digest FROM blob_references")),
        registered=frozenset(row["digest"] for row in own.rows("SELECT digest FROM blobs")),
        leftovers=_leftovers(own, blobs=blobs),
        orphans=own.orphans(),
        traces=_traces(own, known=known, forgotten=forgotten),
        exit_codes=codes,
    )


_VERSIONS = (
    "SELECT m.name AS model, v.number, v.covers, v.settled, v.manifest_digest "
    "FROM versions v JOIN models m ON m.id = v.model_id ORDER BY m.name, v.number"
)
_MOVES = (
    "SELECT m.name AS model, a.from_number, a.to_number FROM alias_moves a "
    "JOIN models m ON m.id = a.model_id WHERE a.name = 'current' ORDER BY a.id"
)
_CURRENT = (
    "SELECT m.name AS model, v.number FROM aliases a JOIN models m ON m.id = a.model_id "
    "JOIN versions v ON v.id = a.version_id WHERE a.name = 'current'"
)
_JOBS = (
    "SELECT j.id, m.name AS model, j.kind, j.status, j.owner, j.error, "
    "(SELECT count(*) FROM versions v WHERE v.job_id = j.id) AS num_versions "
    "FROM jobs j JOIN models m ON m.id = j.model_id ORDER BY j.created_at, j.id"
)


def _requests(own: Installation) -> list[RequestLeft]:
    headers = {"Authorization": f"Bearer {own.admin_key}"}
    with httpx.Client(base_url=own.url, headers=headers, timeout=30.0) as client:
        keys = client.get("/.well-known/jwks.json").json()
        return [
            RequestLeft(
                id=row["id"],
                status=row["status"],
                receipt=_receipt(client, row["id"], keys=keys),
                keeps_hashes=row["subject_refs"] not in (None, "null"),
                has_whole_chain=_has_whole_chain(client, row["id"]),
            )
            for row in own.rows("SELECT id, status, subject_refs FROM requests")
        ]


def _receipt(client: httpx.Client, request_id: str, *, keys: dict[str, Any]) -> str | None:
    answer = client.get(f"/deletions/{request_id}/receipt")
    if not answer.is_success:
        return None
    try:
        return str(verify(answer.text, keys=keys).get("request"))
    except ReceiptInvalid:
        return None


def _has_whole_chain(client: httpx.Client, request_id: str) -> bool:
    answer = client.get(f"/deletions/{request_id}/events")
    return answer.is_success and answer.json()["broken_at"] is None


def _jobs(own: Installation) -> list[JobLeft]:
    return [JobLeft(**row) for row in own.rows(_JOBS)]


def _tombstones(own: Installation) -> dict[str, tuple[list[int], int]]:
    found: dict[str, tuple[list[int], int]] = {}
    for model in own.rows("SELECT id, name, num_sealed FROM models"):
        query = "SELECT number FROM tombstones WHERE model_id = :model ORDER BY number"
        numbers = [int(row["number"]) for row in own.rows(query, model=model["id"])]
        found[model["name"]] = (numbers, int(model["num_sealed"]))
    return found


def _is_whole(store: Path, digest: str) -> bool:
    data = (store / "blobs" / digest[:2] / digest).read_bytes()
    return hashlib.sha256(data).hexdigest() == digest


def _leftovers(own: Installation, *, blobs: frozenset[str]) -> list[str]:
    """Return files that nobody should have left: half-written blobs, copies of records, strange files."""
    in_store = [path for path in own.store.rglob("*") if path.is_file() and path.name not in blobs]
    in_scratch = (own.home / "scratch").rglob("*")
    return [str(path.relative_to(own.folder)) for path in (*in_store, *in_scratch)]


def _traces(own: Installation, *, known: Known, forgotten: list[str]) -> list[str]:
    """Return where something of forgotten subjects still lies, in words."""
    return [
        *_rows_left(own, known=known, forgotten=forgotten),
        *_bytes_left(own, known=known, forgotten=forgotten),
        *_hashes_left(own, known=known, forgotten=forgotten),
        *_hashes_in_tables(own, known=known, forgotten=forgotten),
        *_clear_ids(own),
    ]


def _rows_left(own: Installation, *, known: Known, forgotten: list[str]) -> list[str]:
    left = {(row["dataset_id"], row["row"]) for row in own.rows("SELECT dataset_id, row FROM records")}
    return [
        f"{subject}: row {row} of {dataset} stands in the database"
        for subject in forgotten
        for dataset, row in known.places.get(subject, [])
        if (dataset, row) in left
    ]


def _bytes_left(own: Installation, *, known: Known, forgotten: list[str]) -> list[str]:
    folders = list(own.settings.data_folder.glob("dat_*"))
    data = {folder.name: (folder / "records.bin").read_bytes() for folder in folders}
    size = {folder.name: int((folder / "row_bytes").read_text()) for folder in folders}
    return [
        f"{subject}: the bytes of row {row} of {dataset} are not zero"
        for subject in forgotten
        for dataset, row in known.places.get(subject, [])
        if any(data[dataset][row * size[dataset] : (row + 1) * size[dataset]])
    ]


def _hashes_left(own: Installation, *, known: Known, forgotten: list[str]) -> list[str]:
    """Search the files of the installation (not its ``keys``) for the hashes of some of the forgotten."""
    files = [path for path in own.home.rglob("*") if path.is_file() and "keys" not in path.parts]
    found = []
    for path in [*files, *own.logs.iterdir()]:
        data = path.read_bytes()
        for subject in forgotten[-NUM_TRACED:]:
            for value in known.hashes.get(subject, []):
                if value in data or value.hex().encode() in data:
                    found.append(f"{subject}: {value.hex()[:12]}... stands in {path.relative_to(own.folder)}")
    return found


def _hashes_in_tables(own: Installation, *, known: Known, forgotten: list[str]) -> list[str]:
    """Search what PostgreSQL would answer: its files keep dead rows until the next VACUUM."""
    if own.postgres is None:
        return []
    found = []
    for table in Table.metadata.sorted_tables:
        rows = own.rows(f"SELECT CAST(t AS text) AS line FROM {table.name} t")
        lines = "\n".join(str(row["line"]) for row in rows)
        for subject in forgotten:
            for value in known.hashes.get(subject, []):
                if value.hex() in lines:
                    found.append(f"{subject}: {value.hex()[:12]}... stands in the table {table.name}")
    return found


def _clear_ids(own: Installation) -> list[str]:
    files = [path for path in own.home.rglob("*") if path.is_file()] + list(own.logs.iterdir())
    return [
        f"{path.relative_to(own.folder)} names {match[0].decode()} in clear"
        for path in files
        if (match := CLEAR_ID.search(path.read_bytes()))
    ]
