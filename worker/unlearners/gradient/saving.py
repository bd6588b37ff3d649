"""Keep a course under way, so that a job that is killed or handed over goes on to the same bits.

Promises: one state a shard, at most every 30 s, gone when the job succeeds or with the next purge; every
write checks the fence. What it keeps has seen the forgotten: it counts as tainted by all of them, and only
this job finds it. A course that an exact version has overtaken keeps nothing more: that purge is over.
"""

import time
from dataclasses import dataclass, field

from torch import nn

from app.services.checkpoint import CheckpointFacts, register_checkpoint, rolling_state
from app.services.claim import report_progress
from app.services.publish import require_needed
from models_store.blobs import Digest, digest_of
from models_store.errors import BlobMissing
from worker.context import JobContext
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.runner import CourseState, begin
from worker.unlearners.gradient.state import pack_course, restore_course
from worker.unlearners.recording import PROGRESS_SECONDS, ROLLING_SECONDS


@dataclass
class CourseSaver:
    """Called after each cycle. ``seed`` names what is run: another course has another one."""

    context: JobContext
    shard: int
    settled: int
    seed: int
    repeats: int = 0
    _saved_at: float = field(init=False, default_factory=time.monotonic)
    _reported_at: float = field(init=False, default=0.0)

    def resumed(self, net: nn.Module, course: Course) -> CourseState:
        """Return the state that this job kept of the course, else its beginning."""
        self.repeats = course.repeats
        own, claim = self.context.installation, self.context.claim
        digest = rolling_state(own.sessions, claim, key=self._key, store=own.store)
        if digest is None:
            return begin(net, course)
        try:
            data = own.store.get(Digest(digest))
        except BlobMissing:
            return begin(net, course)
        return restore_course(data, net, course)

    def after_cycle(self, state: CourseState) -> None:
        """Keep the state when it is due.

        Raises:
            Overtaken: an exact version has come out, and nobody waits for this one.
            HandedOver: the job should stop; the state is kept.
        """
        is_asked = self.context.should_stop()
        if is_asked or time.monotonic() - self._saved_at >= ROLLING_SECONDS:
            self._save(state)
        if is_asked:
            self.context.hand_over_if_asked()
        if time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self._report(state)

    @property
    def _key(self) -> str:
        return f"course:{self.shard}:{self.seed:x}"

    def _save(self, state: CourseState) -> None:
        own, claim = self.context.installation, self.context.claim
        require_needed(own.sessions, claim, settled=self.settled)
        data = pack_course(state)
        # Behind the last position of training: whoever is forgotten in this shard lies before it.
        position = self.context.net_recipe.num_positions + state.cycle
        facts = CheckpointFacts(
            role="rolling",
            key=self._key,
            shard=self.shard,
            position=position,
            settled=self.settled,
            state_digest=digest_of(data),
        )
        register_checkpoint(own.sessions, claim, facts, data=data, store=own.store)
        own.store.put(data)
        # It may have come out between the two; then this job ends here, and takes what it kept with it.
        require_needed(own.sessions, claim, settled=self.settled)
        self._saved_at = time.monotonic()

    def _report(self, state: CourseState) -> None:
        self._reported_at = time.monotonic()
        progress = {"shard": self.shard, "cycle": state.cycle, "num_cycles": self.repeats}
        report_progress(self.context.installation.sessions, self.context.claim, dict(progress))
