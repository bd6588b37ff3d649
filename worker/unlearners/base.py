"""What every unlearning method promises to the pipeline, and what it hands over."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pydantic import TypeAdapter

from app.domain.status import Guarantee
from app.domain.terms import JsonObject, JsonValue
from app.services.prepare import Scope
from worker.context import JobContext
from worker.data.records import RecordTable
from worker.unlearners.watching import Watched


@dataclass(frozen=True)
class Prediction:
    """What a job will cost, said before it runs. Lists are in shard order.

    ``resumes_after`` is the position of the resume point (-1: initialisation), ``resumes_from`` its blob.
    """

    resumes_after: list[int]
    resumes_from: list[str | None]
    num_blocks: int

    def to_json(self) -> JsonObject:
        """Return it as the job's outputs keep it."""
        return asdict(self)

    @classmethod
    def read(cls, stated: JsonValue) -> "Prediction | None":
        """Return what ``to_json`` wrote; None when nothing was."""
        return None if stated is None else _PREDICTION.validate_python(stated)


_PREDICTION = TypeAdapter(Prediction)


@dataclass(frozen=True)
class Unlearned:
    """What a method left in the store: the blob of each constituent's final state, in shard order.

    Blocks, records and seconds are those of this process: a job resumed after a kill counts from there.
    ``method`` is what it came to in the end when that is another one than was asked for; ``trace`` is what
    stitching saw on its way, and ``course`` what a gradient method did, as their evidence shows it.
    """

    constituents: list[str]
    resumed_after: list[int]
    resumed_from: list[str | None]
    num_blocks: int
    num_records: int
    loop_seconds: float
    checkpoint_seconds: float
    method: str | None = None
    trace: list[dict[str, Any]] | None = None
    course: list[dict[str, Any]] | None = None

    def to_json(self) -> JsonObject:
        """Return it as the job's outputs keep it."""
        return asdict(self)


class Unlearner(Protocol):
    """An unlearning method: pure prediction, then the work, resumable by its own checkpoints."""

    @property
    def name(self) -> str:
        """The registry's key, and the word in manifests and receipts."""
        ...

    @property
    def guarantee(self) -> Guarantee:
        """How strong a version made by this method is."""
        ...

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Return what ``unlearn`` would run for these retained records."""
        ...

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Make the constituents that forgot up to ``scope.covers`` and store their final states.

        ``watched`` are positions, by shard, whose states before and after are kept for the witness.
        """
        ...
