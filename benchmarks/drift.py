"""A hundred deletions one after the other on the digits, each published twice: stitched, then exact.

After every deletion an oracle, a process that never had the forgotten records, trains the current version
again; both must agree bit for bit. The store must not grow, and accuracy is printed as it drifts with the
records that are left.
"""

import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track

from app.db.models import model_named, versions_of
from app.db.session import reading
from app.db.tables import Version
from app.domain.status import Guarantee
from app.domain.terms import DEFAULT_TENANT
from benchmarks.homes import RECIPES, Home, temporary_home
from benchmarks.inside import subjects_in_plan
from benchmarks.results import Row, print_rows, sheet, write_rows
from models_store.blobs import Digest
from models_store.manifest import Manifest
from worker.auditing import audit
from worker.data.sources import read_source
from worker.installation import Installation

COMMAND = "python -m benchmarks.drift"
MODEL, SEED, NUM_DELETIONS = "digits-stitch", 5, 100
MEBIBYTE = 1 << 20
# When the exact version is out, what is left is what a training leaves, and a little longer evidence.
MOST_GROWTH = 1.01


@dataclass(frozen=True)
class Settled:
    """One deletion: whether the oracle agrees, held-out accuracy in percent, bytes stored."""

    is_equal: bool
    interim_accuracy: float | None
    exact_accuracy: float
    store_bytes: int


def main() -> int:
    """Measure, print, write; fails when an oracle disagrees or the store has grown."""
    print(f"seed {SEED} chooses {NUM_DELETIONS} subjects")
    with temporary_home() as home:
        home.processes.run("expunge-worker", "import", "digits", "--name", "digits")
        home.processes.run("expunge-worker", "train", str(RECIPES / f"{MODEL}.toml"))
        before = _stored_bytes(home.own)
        home.processes.start("expunge-worker", "work")
        settled = [_forget(home, name) for name in track(_subjects(home.own), description="forgetting")]
    rows = _rows(settled, before=before)
    print_rows(rows, title="drift")
    print(f"wrote {write_rows('drift', rows)}")
    has_grown = max(each.store_bytes for each in settled) > MOST_GROWTH * before
    return 0 if all(each.is_equal for each in settled) and not has_grown else 1


def _subjects(own: Installation) -> Sequence[str]:
    held = subjects_in_plan(own, MODEL, dict.fromkeys(read_source("digits").subject_ids))
    names = sorted(each.subject_id for each in held)
    return random.Random(SEED).sample(names, NUM_DELETIONS)


def _forget(home: Home, subject_id: str) -> Settled:
    home.forget(subject_id)
    own = home.own
    exact, interim = _newest(own, Guarantee.EXACT), _newest(own, Guarantee.EMPIRICAL)
    is_of_this = interim is not None and exact is not None and interim.covers == exact.covers
    assert exact is not None
    return Settled(
        is_equal=audit(own, MODEL, tenant=DEFAULT_TENANT, version="current", poisoned=False).is_equal,
        interim_accuracy=_accuracy(own, exact, key="before") if is_of_this else None,
        exact_accuracy=_accuracy(own, exact, key="after"),
        store_bytes=_stored_bytes(own),
    )


def _newest(own: Installation, guarantee: Guarantee) -> Version | None:
    with reading(own.sessions) as session:
        model = model_named(session, MODEL, tenant=DEFAULT_TENANT)
        found = [row for row in versions_of(session, model.id) if row.guarantee == guarantee]
    return max(found, key=lambda row: row.number, default=None)


def _accuracy(own: Installation, exact: Version, *, key: str) -> float:
    """Return held-out accuracy in percent of an exact version, or of the one before it."""
    manifest = Manifest.from_bytes(own.store.get(Digest(exact.manifest_digest)))
    evidence = json.loads(own.store.get(manifest.evidence))
    return 100 * float(evidence["checks"]["utility"]["figures"][key]["held_out"])


def _stored_bytes(own: Installation) -> int:
    return sum(own.store.size(digest) for digest in own.store.digests())


def _rows(settled: Sequence[Settled], *, before: int) -> list[Row]:
    made, num = sheet(COMMAND, threads=1), len(settled)
    tenth = max(1, len(settled) // 10)
    interim = [each.interim_accuracy for each in settled if each.interim_accuracy is not None]
    exact = [each.exact_accuracy for each in settled]
    grown = [each.store_bytes / before for each in settled]
    return [
        made.one(
            "exact versions equal to their oracle", sum(each.is_equal for each in settled), unit="deletions",
            baseline=f"of {num}",
        ),
        made.one("stitched before", len(interim), unit="deletions", baseline=f"of {num}"),
        made.median(
            "store", grown, unit="x of after training",
            baseline=f"{before / MEBIBYTE:.1f} MiB; last {grown[-1]:.3f}",
        ),
        made.median(
            "held-out accuracy, exact", exact, unit="%",
            baseline=f"first tenth {_mean(exact[:tenth])}, last {_mean(exact[-tenth:])}",
        ),
        *([made.median("held-out accuracy, stitched", interim, unit="%", baseline="before each exact one")]
          if interim else []),
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
