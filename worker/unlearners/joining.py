"""A run while deletions join it: its n, its records, and how far each shard has come.

Between two blocks the job looks at what has been sealed since. Somebody whose block lies ahead is left out
from here on: that equals, bit for bit, a run that never knew of them. Somebody whose block lies behind sends
that shard back to a state that never met them; one block late would not be exact.
"""

import time
from dataclasses import dataclass, field

from app.domain.terms import JsonObject
from app.services.claim import amend_output
from app.services.prepare import Scope, join
from worker.context import JobContext
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.unlearners.base import Prediction
from worker.unlearners.recording import records_after
from worker.unlearners.watching import Watched, watched_blocks, watched_to_json

LOOK_SECONDS = 0.2


class ShardGoesBack(Exception):
    """The shard at work has met somebody who is to be forgotten."""


@dataclass
class Run:
    """What the shards of one job share.

    ``finished`` is the last position that each shard's state went through. ``waiting`` are the shards that
    have not begun, or must go back; ``watched`` the witness's positions, by shard. ``predicted`` is what
    was said in advance; ``num_records`` is what the shards that are through have met.
    """

    context: JobContext
    scope: Scope
    table: RecordTable
    loader: Loader
    watched: Watched
    waiting: list[int]
    predicted: Prediction | None
    num_records: int = 0
    finished: dict[int, int] = field(default_factory=dict)
    is_frozen: bool = False
    _looked_at: float = field(init=False, default=-LOOK_SECONDS)

    @property
    def looks_again(self) -> bool:
        """Whether it is time to look at what was sealed: a read for every block would slow small nets."""
        return not self.is_frozen and time.monotonic() - self._looked_at >= LOOK_SECONDS

    def watched_in(self, shard: int) -> frozenset[int]:
        """Return the witness's positions in a shard."""
        return frozenset(self.watched.get(shard, ()))

    def total_records(self, shard: int, *, after: int) -> int:
        """Return what this process will have met at the job's end, as ``shard`` goes on after a position."""
        assert self.predicted is not None
        resumes_after = self.predicted.resumes_after
        ways = {shard: after, **{each: resumes_after[each] for each in self.waiting}}
        return self.num_records + records_after(self.context, self.loader, ways)

    def join(self) -> bool:
        """Move n over what can still be left out; True when it moved. Shards that must go back wait again."""
        self._looked_at = time.monotonic()
        own = self.context.installation
        joined = join(own.sessions, self.context.claim, scope=self.scope, finished=self.finished)
        self.is_frozen = joined.is_frozen
        if joined.scope == self.scope:
            return False
        self.scope = joined.scope
        self.watched = watched_blocks(self.context, joined.scope)
        self.table = self.context.retained(covers=joined.scope.covers)
        self.loader.serve(self.table, file=self.context.data_file)
        for shard in sorted(joined.returns):
            del self.finished[shard]
            self.waiting.append(shard)
        return True

    def note(self, prediction: Prediction) -> None:
        """Say anew in advance where each shard resumes and what is watched, now that n has moved."""
        self.predicted = prediction
        changes: JsonObject = {
            "prediction": prediction.to_json(),
            "watched": watched_to_json(self.watched),
            "num_retained": len(self.table),
        }
        amend_output(self.context.installation.sessions, self.context.claim, step="prepare", changes=changes)
