"""Audit a version: copy what it may have been trained on, let the oracle train, compare digests.

Promises: the copy is in the lineage while it exists, and gone when the audit ends; it holds no record
that the version covers (or, poisoned, only as NaN).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.db.models import find_version, model_named
from app.db.records import forgotten_records, retained_records, traits_of
from app.db.session import reading
from app.db.tables import Dataset, Model, Version
from app.domain.errors import ExpungeError, Refused
from app.domain.status import Guarantee
from app.domain.terms import ModelId, TenantName
from app.services.scratch import forget_copy, register_copy, require_copy
from worker.data.copies import INDEX_FILE, LAYOUT_FILE, PLAN_KEY_FILE, RECIPE_FILE, RECORDS_FILE, OracleIndex
from worker.data.data_files import Layout, open_data_file, read_rows
from worker.data.records import table_from_rows
from worker.installation import Installation


class OracleStopped(ExpungeError):
    """The oracle process ended without an answer."""


def oracle_environment() -> dict[str, str]:
    """Return what an oracle's process may have of the environment: nothing of ours but what shapes bits."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "OMP_NUM_THREADS", "EXPUNGE_DEVICE")
    return {name: os.environ[name] for name in kept if name in os.environ}


def run_oracle(folder: Path) -> Mapping[str, str]:
    """Run the oracle over a copy, in an interpreter of its own, and return what it printed.

    Raises:
        OracleStopped: it ended without an answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", "worker.oracle", str(folder)],
        capture_output=True,
        text=True,
        env=oracle_environment(),
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise OracleStopped(f"the oracle ended with code {done.returncode}: {lines[-1]}")
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@dataclass(frozen=True)
class Audit:
    """What the oracle found beside what was published."""

    version: int
    published_digest: str
    oracle_digest: str
    num_records: int
    is_same_environment: bool

    @property
    def is_equal(self) -> bool:
        """Whether the version is, bit for bit, what training without the records gives."""
        return self.published_digest == self.oracle_digest


def audit(
    installation: Installation,
    model_name: str,
    *,
    tenant: TenantName,
    version: str,
    poisoned: bool = False,
    run: Callable[[Path], Mapping[str, str]] = run_oracle,
) -> Audit:
    """Train ``version`` again in a fresh process over a copy without the records it covers.

    ``poisoned`` keeps the forgotten records that are not erased yet in the copy, as NaN. ``run`` is what has
    the oracle train on the copy.

    Raises:
        NotFound: there is no such model or version.
        Refused: the model was trained elsewhere, an empirical method made the version, or records that it was
            trained on have been purged since.
        OracleStopped: the oracle process failed.
    """
    with reading(installation.sessions) as session:
        model = model_named(session, model_name, tenant=tenant)
        found = find_version(session, model.id, version)
    if not model.has_plan:
        raise Refused(f"{model.name} was trained elsewhere: nobody can train it again here and compare")
    if found.guarantee != Guarantee.EXACT:
        raise Refused(f"version {found.number} is empirical: no training gives its weights")
    copy_id = register_copy(installation.sessions, ModelId(model.id), settled=found.settled)
    folder = installation.settings.scratch_folder / copy_id
    try:
        num_records = _copy(installation, model, found, folder=folder, poisoned=poisoned)
        answer = run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        forget_copy(installation.sessions, copy_id)
    return Audit(
        version=found.number,
        published_digest=found.weights_digest,
        oracle_digest=answer["weights_digest"],
        num_records=num_records,
        is_same_environment=answer["environment"] == found.environment_digest,
    )


def _copy(installation: Installation, model: Model, version: Version, *, folder: Path, poisoned: bool) -> int:
    with reading(installation.sessions) as session:
        layout = Layout.from_json(session.get_one(Dataset, model.dataset_id).layout)
        kept = list(retained_records(session, model, covers=version.settled))
        dropped = list(forgotten_records(session, model, above=0, covers=version.settled)) if poisoned else []
        rows = [row for row in [*kept, *dropped] if not row.is_held_out]
        traits = traits_of(session, model.dataset_id)
    num_poisoned = sum(not row.is_held_out for row in dropped)
    table = table_from_rows(rows)
    folder.mkdir(parents=True, mode=0o700)
    require_copy(installation.sessions, folder.name)
    file = open_data_file(installation.settings.data_folder, model.dataset_id, layout=layout)
    read_rows(file, table.row_N, digests=table.content_digests).tofile(folder / RECORDS_FILE)
    index = OracleIndex(
        record_ref_N=_refs(row.record_ref for row in rows),
        subject_ref_N=_refs(row.subject_ref for row in rows),
        content_digest_N=_refs(table.content_digests),
        spread_N=np.array([traits[row][0] for row in table.row_N.tolist()], dtype=np.int64),
        likelihood_N=np.array([traits[row][1] for row in table.row_N.tolist()], dtype=np.float64),
        is_poisoned_N=np.arange(len(table)) >= len(table) - num_poisoned,
    )
    index.save(folder / INDEX_FILE)
    (folder / LAYOUT_FILE).write_text(json.dumps(layout.to_json()))
    (folder / RECIPE_FILE).write_text(json.dumps(model.recipe))
    (folder / PLAN_KEY_FILE).write_text(installation.keyring.plan_key(model.id).hex())
    return len(table) - num_poisoned


def _refs(refs: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Return 32-byte hashes as an (N, 32) array."""
    joined = b"".join(refs)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)
