"""Temporary installations for benchmarks: MNIST with synthetic subjects, and real processes that work on it.

Subjects hold 1 to 10 records each, drawn with a fixed seed, so that what is forgotten is often several.
"""

import dataclasses
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.api.deps import Context
from app.api.door import submission_of
from app.api.schemas import DeletionIn
from app.domain.access import Caller, Scope
from app.domain.status import JobKind, RequestStatus
from app.domain.terms import DEFAULT_TENANT, KeyId
from app.main import open_context
from app.services.show_deletions import show_deletion
from app.services.submit import submit
from benchmarks.inside import JobFigures, last_job, look_into
from benchmarks.mnist import mnist_folder
from benchmarks.packages import CACHE
from benchmarks.processes import Processes, peak_memory_bytes
from worker.data.importing import ImportOrder, import_source
from worker.data.sources import SourceOptions, SourceTable, read_source
from worker.installation import Installation

RECIPES = Path(__file__).parent / "recipes"
RECIPE = RECIPES / "mnist.toml"
DATASET = "mnist"
SUBJECT_SIZES = (1, 1, 1, 2, 3, 5, 10)
SUBJECTS_SEED = 1
SETTLE_SECONDS, POLL_SECONDS = 300.0, 0.1
ENDING_SECONDS = 0.5  # the job ends a moment after its request
_OPERATOR = Caller(key_id=KeyId("benchmark"), tenant=DEFAULT_TENANT, scopes=frozenset({Scope.ADMIN}))


@dataclass(frozen=True)
class Home:
    """One installation with its processes."""

    folder: Path
    own: Installation
    context: Context
    processes: Processes

    def train(self, model: str) -> JobFigures:
        """Train the MNIST recipe under a name of its own; return what the job took."""
        self.processes.run("expunge-worker", "train", str(self._recipe(model)))
        return last_job(self.own, JobKind.TRAIN)

    def train_for_memory(self, model: str) -> int:
        """Train once more and return the highest resident size, in bytes, of any one process of it."""
        return peak_memory_bytes(self.processes.start("expunge-worker", "train", str(self._recipe(model))))

    def forget(self, subject_id: str) -> JobFigures:
        """Submit a deletion, wait for the running worker, and return what the job took.

        Raises:
            RuntimeError: it was not completed.
        """
        submission = submission_of(
            DeletionIn(subject_id=subject_id), context=self.context, tenant=DEFAULT_TENANT
        )
        sessions = self.context.sessions
        request_id = submit(sessions, submission, tenant=DEFAULT_TENANT, keyring=self.context.keyring)
        until = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            view = show_deletion(sessions, request_id, caller=_OPERATOR)
            if view.status is RequestStatus.COMPLETED:
                time.sleep(ENDING_SECONDS)
                return last_job(self.own, JobKind.SETTLE)
        raise RuntimeError(f"the deletion is {view.status} after {SETTLE_SECONDS:.0f} s")

    def _recipe(self, model: str) -> Path:
        path = self.folder / f"{model}.toml"
        path.write_text(RECIPE.read_text().replace(f'name = "{DATASET}"', f'name = "{model}"', 1))
        return path


@contextmanager
def temporary_home() -> Iterator[Home]:
    """Yield a fresh installation on the disk that this repository lies on; it is gone afterwards."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="home-") as name:
        folder = Path(name)
        with Processes(folder / "home", logs=folder / "logs") as processes:
            processes.run("expunge", "init")
            own = look_into(folder / "home")
            context = open_context(own.settings)
            yield Home(folder=folder, own=own, context=context, processes=processes)
            context.engine.dispose()
            own.engine.dispose()


def mnist_table() -> SourceTable:
    """Return MNIST with synthetic subjects of consecutive records; the test images are one subject each."""
    table = read_source(str(mnist_folder()), format="idx", options=SourceOptions())
    assert table.held_out is not None
    num_training = int((~table.held_out).sum())
    generator = random.Random(SUBJECTS_SEED)
    subject_ids: list[str] = []
    while len(subject_ids) < num_training:
        subject_ids += [f"synthetic-{len(subject_ids):06d}"] * generator.choice(SUBJECT_SIZES)
    subject_ids = subject_ids[:num_training] + [
        f"test-{row}" for row in range(len(table.record_ids) - num_training)
    ]
    return dataclasses.replace(table, subject_ids=subject_ids)


def fill(home: Home, table: SourceTable) -> None:
    """Import a table as the dataset that the recipe names."""
    import_source(
        home.own.sessions,
        table,
        ImportOrder(name=DATASET),
        tenant=DEFAULT_TENANT,
        keyring=home.own.keyring,
        data_folder=home.own.settings.data_folder,
    )
