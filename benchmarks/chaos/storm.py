"""The storm: draws faults one after the other, brings back what they took, and lets nothing stay dead.

One thread does all of it. A process that nobody killed but that has ended is started again too, and noted.
"""

import heapq
import random
import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.chaos.faults import FAULTS, Fault, Hit, Repair
from benchmarks.chaos.history import Died, Recorder, Repaired, Struck
from benchmarks.chaos.installation import Installation, child_of

GAP_SECONDS = (0.1, 1.3)
IDLE_SECONDS = 4.0
GLANCE_SECONDS = 0.05
REBIRTH_SECONDS = 0.5


@dataclass(order=True, frozen=True)
class _Due:
    at: float
    number: int
    kind: str = field(compare=False)
    whom: str = field(compare=False)
    repair: Repair = field(compare=False)


@dataclass
class Storm:
    """So many faults over one installation, drawn by ``chance``."""

    own: Installation
    recorder: Recorder
    chance: random.Random
    faults: dict[str, tuple[Fault, int]] = field(default_factory=lambda: dict(FAULTS))
    num_struck: int = 0
    _due: list[_Due] = field(default_factory=list)

    def rage(self, num_faults: int) -> None:
        """Strike so often, then bring everything back."""
        earliest = latest = time.monotonic()
        while self.num_struck < num_faults or self._due:
            self.look_after()
            at = time.monotonic()
            is_time = at >= latest or (at >= earliest and self._is_worth_it())
            if self.num_struck < num_faults and is_time and self._strike():
                earliest = at + self.chance.uniform(*GAP_SECONDS)
                latest = earliest + IDLE_SECONDS
            time.sleep(GLANCE_SECONDS)

    def look_after(self) -> None:
        """Bring back what is due, and what has ended by itself."""
        while self._due and self._due[0].at <= time.monotonic():
            due = heapq.heappop(self._due)
            due.repair()
            self.recorder.add(Repaired(self.recorder.now(), due.number, due.kind, due.whom))
        busy = self._busy()
        for role in self.own.roles.values():
            if role.popen is None or role.runs or role.name in busy:
                continue
            died = Died(self.recorder.now(), role.name, role.popen.returncode, role.last_words())
            self.recorder.add(died)
            start = partial(self.own.start, role)
            self._later(Hit(whom=role.name, repair=start, after_seconds=REBIRTH_SECONDS), kind="died")

    def _is_worth_it(self) -> bool:
        """Whether a job runs: a storm over processes that are only starting tells little."""
        return any(child_of(role) is not None for role in self.own.worker_roles if role.runs)

    def _strike(self) -> bool:
        """Draw a fault and let it strike; False when there was nothing to hit."""
        names, weights = list(self.faults), [weight for _, weight in self.faults.values()]
        (kind,) = self.chance.choices(names, weights)
        at = self.recorder.now()
        hit = self.faults[kind][0](self.own, self.chance, self._busy())
        if hit is None:
            return False
        self.num_struck += 1
        self.recorder.add(Struck(at, self.num_struck, kind, hit.whom, hit.job, hit.fence, hit.detail))
        self._later(hit, kind=kind)
        return True

    def _later(self, hit: Hit, *, kind: str) -> None:
        if hit.repair is not None:
            at = time.monotonic() + hit.after_seconds
            heapq.heappush(self._due, _Due(at, self.num_struck, kind, hit.whom, hit.repair))

    def _busy(self) -> frozenset[str]:
        return frozenset(due.whom for due in self._due)
