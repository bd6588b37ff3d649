"""The faults: each takes something away at once and says when, and how, it comes back.

Nothing in the service helps: processes are killed and stopped by signals, the store's file system is filled
with a balloon, writes are cut short by the kernel's file size limit on the process that writes.
"""

import os
import random
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from app.dispatch import Messages
from app.domain.terms import JobId
from benchmarks.chaos.installation import DATABASE, Installation, Role, child_of, forkserver_of, send

RESTART_SECONDS = (0.1, 1.0)
PAUSE_BEYOND_LEASE_SECONDS = (0.5, 1.5)
SHORT_PAUSE_SECONDS = (0.5, 2.0)
FULL_SECONDS = (0.3, 1.5)
FILE_LIMITS_BYTES = (0, 64_000)
BALLOON_PIECE_BYTES = 1 << 16
NUM_REPEATED, NUM_DELIVERIES = 5, 10

Repair = Callable[[], None]


@dataclass(frozen=True)
class Hit:
    """What a fault did: whom it hit, what that held, and what brings it back after some seconds."""

    whom: str
    repair: Repair | None = None
    after_seconds: float = 0.0
    job: str | None = None
    fence: int | None = None
    detail: str = ""


# Returns None when there is nothing to hit at the moment.
Fault = Callable[[Installation, random.Random, frozenset[str]], Hit | None]


def kill_api(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 the server."""
    role = own.roles["api"]
    return None if role.name in busy or not role.runs else _killed(own, role, chance)


def kill_worker(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 a supervisor; what it had started has to notice by itself."""
    role = _some_worker(own, chance, busy)
    return None if role is None else _killed(own, role, chance)


def kill_machine(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 every process of a worker at once, as when its machine loses power."""
    role = _some_worker(own, chance, busy)
    if role is None:
        return None
    pids = [pid for pid in (child_of(role), forkserver_of(role)) if pid is not None]
    hit = _killed(own, role, chance)
    for pid in pids:
        send(pid, signal.SIGKILL)
    return hit


def kill_child(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 the process that runs a job; its supervisor lives."""
    return _hit_child(own, chance, busy, number=signal.SIGKILL)


def abort_child(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Let the process that runs a job die as by a fault of memory."""
    return _hit_child(own, chance, busy, number=signal.SIGSEGV)


def kill_forkserver(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 what a worker's children are forked from."""
    role = _some_worker(own, chance, busy)
    pid = forkserver_of(role) if role else None
    if role is None or pid is None:
        return None
    hit = _hit(own, role)
    send(pid, signal.SIGKILL)
    return hit


def pause_worker(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Stop a supervisor until its lease is long over, while the child works on without a heartbeat."""
    role = _some_worker(own, chance, busy)
    return None if role is None else _paused(own, role, [role.pid], chance)


def pause_machine(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Stop a supervisor and its child until the lease is long over; both wake up believing in it."""
    role = _some_worker(own, chance, busy)
    child = child_of(role) if role else None
    return None if role is None or child is None else _paused(own, role, [role.pid, child], chance)


def pause_child(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Stop the child for a while; its supervisor keeps the lease."""
    role = _some_worker(own, chance, busy)
    child = child_of(role) if role else None
    if role is None or child is None:
        return None
    hit = _hit(own, role)
    send(child, signal.SIGSTOP)
    after = chance.uniform(*SHORT_PAUSE_SECONDS)
    return replace(hit, repair=lambda: send(child, signal.SIGCONT), after_seconds=after)


def fill_store(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Leave no byte free in the store's file system."""
    if not own.has_own_store or "store" in busy:
        return None
    balloon = own.store / "balloon"
    descriptor = os.open(balloon, os.O_CREAT | os.O_WRONLY)
    num_bytes = 0
    with suppress(OSError):  # full: that is what we wanted
        while True:
            num_bytes += os.write(descriptor, bytes(BALLOON_PIECE_BYTES))
    os.close(descriptor)
    return Hit(
        whom="store", repair=lambda: balloon.unlink(missing_ok=True),
        after_seconds=chance.uniform(*FULL_SECONDS), detail=f"{num_bytes >> 10} KiB",
    )  # fmt: skip


def shorten_writes(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Let the kernel cut off every file that a child writes at a random length."""
    role = _some_worker(own, chance, busy)
    child = child_of(role) if role else None
    if role is None or child is None:
        return None
    limit = chance.randint(*FILE_LIMITS_BYTES)
    hit = _hit(own, role)
    with suppress(ProcessLookupError):
        resource.prlimit(child, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    after = chance.uniform(*FULL_SECONDS)
    return replace(hit, detail=f"{limit} bytes", repair=lambda: _unlimit(child), after_seconds=after)


def kill_postgres(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 the whole database server."""
    if own.postgres is None or "postgres" in busy:
        return None
    own.postgres.kill()
    return Hit(whom="postgres", repair=own.postgres.restart, after_seconds=chance.uniform(*RESTART_SECONDS))


def end_backend(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Let the database end one of its connections, whatever that is doing."""
    if own.postgres is None or "postgres" in busy:
        return None
    with own.postgres.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s ORDER BY pid"
        backends = [int(pid) for (pid,) in connection.execute(query, (DATABASE,))]
        if not backends:
            return None
        connection.execute("SELECT pg_terminate_backend(%s)", (chance.choice(backends),))
    return Hit(whom="postgres", detail=f"one of {len(backends)}")


def kill_redis(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Kill -9 the broker; it comes back empty."""
    if own.redis is None or "redis" in busy:
        return None
    own.redis.kill()
    return Hit(whom="redis", repair=own.redis.restart, after_seconds=chance.uniform(*RESTART_SECONDS))


def repeat_messages(own: Installation, chance: random.Random, busy: frozenset[str]) -> Hit | None:
    """Deliver the ids of jobs, those of ended ones too, many times."""
    if own.redis is None or "redis" in busy:
        return None
    with suppress(SQLAlchemyError):  # the database may be away
        newest = own.rows("SELECT id FROM jobs ORDER BY created_at DESC, id LIMIT 12")
        chosen = [JobId(str(row["id"])) for row in chance.sample(newest, k=min(len(newest), NUM_REPEATED))]
        messages = Messages(own.settings)
        for job_id in chosen * NUM_DELIVERIES:
            messages.announce(job_id, device_class=None)
        return Hit(whom="redis", detail=f"{len(chosen)} jobs, {NUM_DELIVERIES} times")
    return None


def _some_worker(own: Installation, chance: random.Random, busy: frozenset[str]) -> Role | None:
    """Return a worker that runs undisturbed, one with a job if there is any."""
    free = [role for role in own.worker_roles if role.runs and role.name not in busy]
    chance.shuffle(free)
    return min(free, key=lambda role: child_of(role) is None, default=None)


def _hit(own: Installation, role: Role) -> Hit:
    held = own.held_by(role)
    if held is None:
        return Hit(whom=role.name)
    return Hit(whom=role.name, job=str(held["id"]), fence=int(held["fence"]), detail=str(held["step"]))


def _killed(own: Installation, role: Role, chance: random.Random) -> Hit:
    hit = _hit(own, role) if role.name != "api" else Hit(whom=role.name)
    assert role.popen is not None  # it runs
    role.popen.kill()
    role.popen.wait()
    after = chance.uniform(*RESTART_SECONDS)
    return replace(hit, repair=lambda: own.start(role), after_seconds=after)


def _hit_child(
    own: Installation, chance: random.Random, busy: frozenset[str], *, number: signal.Signals
) -> Hit | None:
    role = _some_worker(own, chance, busy)
    child = child_of(role) if role else None
    if role is None or child is None:
        return None
    hit = _hit(own, role)
    send(child, number)
    return hit


def _paused(own: Installation, role: Role, pids: list[int], chance: random.Random) -> Hit:
    hit = _hit(own, role)
    for pid in pids:
        send(pid, signal.SIGSTOP)

    def wake() -> None:
        for pid in pids:
            send(pid, signal.SIGCONT)

    lease = own.lease_seconds or 0.0
    after = lease + chance.uniform(*PAUSE_BEYOND_LEASE_SECONDS)
    return replace(hit, repair=wake, after_seconds=after)


def _unlimit(pid: int) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# How often each is drawn, against the others; what a set-up does not have is drawn again. Whatever ends a
# forkserver costs seconds of imports: too many of them, and no job comes far enough to be hit.
FAULTS: dict[str, tuple[Fault, int]] = {
    "kill api": (kill_api, 3),
    "kill worker": (kill_worker, 3),
    "kill machine": (kill_machine, 1),
    "kill child": (kill_child, 5),
    "abort child": (abort_child, 1),
    "kill forkserver": (kill_forkserver, 1),
    "pause worker": (pause_worker, 2),
    "pause machine": (pause_machine, 2),
    "pause child": (pause_child, 1),
    "fill store": (fill_store, 2),
    "short writes": (shorten_writes, 2),
    "kill postgres": (kill_postgres, 2),
    "end backend": (end_backend, 2),
    "kill redis": (kill_redis, 2),
    "repeat messages": (repeat_messages, 2),
}
