"""The installation under test: real processes, each started again after its death, as an orchestrator would.

Promises: every process has a session of its own, so that what it leaves behind can be found; the store lies
on a small file system of its own when this user may mount one, so that it can be filled; whatever was started
or mounted is gone when the installation is closed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import open_engine
from app.keyring import Keyring, load_keyring
from app.settings import Settings
from benchmarks.processes import free_port
from tests.support.servers import PostgresServer, RedisServer

BIN = Path(sys.executable).parent
# Short, so that what waits for them fits into a storm of minutes.
LEASE_SECONDS, SWEEP_SECONDS, POLL_SECONDS = 3.0, 2.0, 0.1
STORE_MEGABYTES = 48
DATABASE = "expunge"
STOP_SECONDS, ORPHAN_SECONDS, GLANCE_SECONDS = 60.0, 10.0, 0.1
WORDS = 300


class CommandFailed(Exception):
    """A command of the project ended otherwise than it had to; the message holds its last words."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Role:
    """A process that is to run always; ``popen`` is the one that runs now."""

    name: str
    command: tuple[str, ...]
    popen: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def pid(self) -> int:
        """The id of the process and of its session."""
        assert self.popen is not None  # every role is started before anybody asks
        return self.popen.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.popen is not None and self.popen.poll() is None

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return "" if self.log is None else self.log.read_text(errors="replace")[-WORDS:]


@dataclass
class Installation:
    """One home folder, its roles, and a look into its database."""

    folder: Path
    workers: int = 2
    lease_seconds: float | None = LEASE_SECONDS
    database_url: str = ""
    broker_url: str = ""
    admin_key: str = ""
    product_key: str = ""
    port: int = field(default_factory=free_port)
    roles: dict[str, Role] = field(default_factory=dict)
    sessions: list[int] = field(default_factory=list)
    has_own_store: bool = False
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    _num_logs: int = 0
    _engine: Engine | None = None

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True)
        self.store.mkdir()
        self.has_own_store = _mount(self.store)
        serve = ("expunge", "serve", "--port", str(self.port))
        commands = {"api": serve} | {
            f"worker-{n}": ("expunge-worker", "work") for n in range(1, self.workers + 1)
        }
        self.roles = {name: Role(name=name, command=command) for name, command in commands.items()}

    @property
    def home(self) -> Path:
        """What EXPUNGE_HOME names."""
        return self.folder / "home"

    @property
    def store(self) -> Path:
        """Where the blobs lie."""
        return self.folder / "store"

    @property
    def logs(self) -> Path:
        """Whatever the processes printed, a file each."""
        return self.folder / "logs"

    @property
    def url(self) -> str:
        """Where the API listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        """The settings that every process here has."""
        return Settings(
            home=self.home,
            database_url=self.database_url,
            store_url=str(self.store),
            broker_url=self.broker_url,
        )

    @property
    def keyring(self) -> Keyring:
        """The keys of the installation."""
        return load_keyring(self.settings)

    @property
    def worker_roles(self) -> list[Role]:
        """The workers."""
        return [role for name, role in self.roles.items() if name.startswith("worker")]

    def serve_postgres(self) -> None:
        """Use a PostgreSQL server of its own, which keeps what it acknowledged."""
        self.postgres = PostgresServer.start(self.folder / "postgres", durable=True)
        self.database_url = self.postgres.create_database(DATABASE)

    def serve_redis(self) -> None:
        """Use a Redis server of its own, which keeps nothing."""
        self.redis = RedisServer.start(self.folder / "redis")
        self.broker_url = self.redis.url

    def prepare(self) -> None:
        """Make keys, database and the two API keys."""
        self.admin_key = json.loads(self.run("expunge", "init", "--json"))["admin_key"]
        scopes = ("--scope", "deletions:create", "--scope", "deletions:read", "--json")
        self.product_key = json.loads(self.run("expunge", "keys", "create", "shop", *scopes))["key"]

    def start(self, role: Role) -> None:
        """Start a role's process, with a log of its own."""
        self._num_logs += 1
        role.log = self.logs / f"{self._num_logs:04d}-{role.name}.log"
        with role.log.open("ab") as log:
            role.popen = subprocess.Popen(
                [str(BIN / role.command[0]), *role.command[1:]], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=self._environment(), start_new_session=True,
            )  # fmt: skip
        self.sessions.append(role.popen.pid)

    def run(self, *command: str) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            CommandFailed: its exit code was not 0.
        """
        done = self.finish(*command)
        if done.code:
            raise CommandFailed(f"`{' '.join(command[:3])}` ended with {done.code}: {done.err[-WORDS:]}")
        return done.out

    def finish(self, *command: str) -> Done:
        """Run a command to its end, whatever that is."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=self._environment(), check=False, start_new_session=True,
        )  # fmt: skip
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def rows(self, query: str, **values: object) -> list[Mapping[str, Any]]:
        """Return what a query finds; reads only."""
        if self._engine is None:
            self._engine = open_engine(self.settings.resolved_database_url)
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query), values).mappings()]

    def held_by(self, role: Role) -> Mapping[str, Any] | None:
        """Return the running job that a worker holds."""
        query = "SELECT id, fence, step FROM jobs WHERE status = 'running' AND owner LIKE :owner"
        with suppress(SQLAlchemyError):  # the database may be away
            return next(iter(self.rows(query, owner=f"%:{role.pid}")), None)
        return None

    def stop_all(self) -> dict[str, int | None]:
        """Ask every role to end, the workers first; return the exit codes, None for who did not."""
        codes: dict[str, int | None] = {}
        for role in (*self.worker_roles, self.roles["api"]):
            if role.popen is None:
                continue
            role.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                role.popen.wait(STOP_SECONDS)
            codes[role.name] = role.popen.poll()
        return codes

    def orphans(self) -> list[str]:
        """Return what outlives the end of its session's first process by more than some seconds."""
        until = time.monotonic() + ORPHAN_SECONDS
        while (found := self._orphans()) and time.monotonic() < until:
            time.sleep(GLANCE_SECONDS)
        return found

    def _orphans(self) -> list[str]:
        alive = {role.pid for role in self.roles.values() if role.runs}
        return [
            f"{process.pid} {' '.join(process.cmdline())[:100]}"
            for process in psutil.process_iter()
            if (owner := _session_of(process)) in self.sessions and owner not in alive
        ]

    def close(self, *, keeps_folder: bool) -> None:
        """End everything that was started here; what the store held is kept with the folder."""
        for session in self.sessions:
            for process in [p for p in psutil.process_iter() if _session_of(p) == session]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for role in self.roles.values():
            if role.popen is not None:
                role.popen.wait()
        if self._engine is not None:
            self._engine.dispose()
        for server in (self.postgres, self.redis):
            if server is not None:
                server.stop()
        if self.has_own_store:
            _unmount(self.store, keep=self.folder / "store-as-it-was" if keeps_folder else None)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
        ours = {
            "EXPUNGE_HOME": str(self.home),
            "EXPUNGE_STORE_URL": str(self.store),
            "EXPUNGE_POLL_SECONDS": str(POLL_SECONDS),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        if self.database_url:
            ours["EXPUNGE_DATABASE_URL"] = self.database_url
        if self.lease_seconds is not None:
            ours["EXPUNGE_LEASE_SECONDS"] = str(self.lease_seconds)
            ours["EXPUNGE_SWEEP_SECONDS"] = str(SWEEP_SECONDS)
        if self.broker_url:
            ours["EXPUNGE_BROKER_URL"] = self.broker_url
        return kept | ours


@contextmanager
def installed(installation: Installation) -> Iterator[Installation]:
    """Close the installation at the end; its folder stays when the block fails."""
    try:
        yield installation
    except BaseException:
        installation.close(keeps_folder=True)
        raise
    installation.close(keeps_folder=False)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile needs none."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def forkserver_of(role: Role) -> int | None:
    """Return the process that a worker's children are forked from."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(role.pid).children():
            if any("forkserver" in part for part in process.cmdline()):
                return int(process.pid)
    return None


def child_of(role: Role) -> int | None:
    """Return the process that runs a worker's job."""
    forkserver = forkserver_of(role)
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(forkserver).children() if forkserver else ():
            if process.status() != psutil.STATUS_ZOMBIE:
                return int(process.pid)
    return None


def _session_of(process: psutil.Process) -> int | None:
    with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return os.getsid(process.pid)
    return None


def _mount(place: Path) -> bool:
    """Give a folder a file system of its own; False when this user may not."""
    options = ["-t", "tmpfs", "-o", f"size={STORE_MEGABYTES}m", "expunge-chaos", str(place)]
    done = subprocess.run(["mount", *options], capture_output=True, check=False)
    return done.returncode == 0


def _unmount(place: Path, *, keep: Path | None) -> None:
    if keep is not None:
        subprocess.run(["cp", "-r", str(place), str(keep)], check=True)
    subprocess.run(["umount", str(place)], check=True)
