"""Real processes over a home folder of their own: commands, the server, workers.

Promises: whatever was started is gone when its home is closed, also what it started itself; everything that
was printed lies under ``logs`` and is shown when something does not come in time.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from app.keyring import Keyring, load_keyring
from app.settings import Settings

T = TypeVar("T")
COMMANDS = Path(sys.executable).parent
PATIENCE_SECONDS = 180.0
GLANCE_SECONDS = 0.02
LEASE_SECONDS = 3.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Process:
    """A process in a session of its own, so that everything it starts can be found after its death."""

    name: str
    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process id, which is the id of its session too."""
        return self.popen.pid

    def family(self) -> list[psutil.Process]:
        """Return what lives of its session: the process itself and all that it started."""
        return [process for process in psutil.process_iter() if _session_of(process) == self.pid]

    def kill(self) -> None:
        """Kill -9 this process alone: what it started has to notice by itself."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        self.popen.terminate()
        return self.popen.wait(PATIENCE_SECONDS)

    def destroy(self) -> None:
        """Kill all that is left of its session."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()


@dataclass(frozen=True)
class Service:
    """A running server, seen by an admin and by a product."""

    home: "Home"
    process: Process
    admin: httpx.Client
    product: httpx.Client

    def post(self, subject: str, **more: object) -> dict[str, Any]:
        """Post a deletion as a product does and return the acknowledgement."""
        answer = self.product.post("/deletions", json={"subject_id": subject, **more})
        assert answer.status_code == 202, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def show(self, deletion: str) -> dict[str, Any]:
        """Return what an admin sees of a deletion."""
        answer = self.admin.get(f"/deletions/{deletion}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def wait_until_completed(self, *deletions: str) -> None:
        """Poll until these deletions are completed; one that fails fails the test at once."""

        def are_completed() -> bool:
            statuses = [self.show(deletion)["status"] for deletion in deletions]
            assert "failed" not in statuses, self.home.told()
            return all(status == "completed" for status in statuses)

        self.home.wait_for("the completion of every deletion", are_completed)

    def forget(self, subject: str, **more: object) -> str:
        """Post a deletion, wait until it is completed and return its id."""
        deletion = str(self.post(subject, **more)["id"])
        self.wait_until_completed(deletion)
        return deletion

    def version(self, model: str, version: int | str = "current") -> dict[str, Any]:
        """Return a version as its manifest states it."""
        answer = self.admin.get(f"/models/{model}/versions/{version}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@dataclass
class Home:
    """One installation in a folder of its own, and the processes that work in it."""

    folder: Path
    admin_key: str = ""
    product_key: str = ""
    processes: list[Process] = field(default_factory=list)
    _num_logs: int = 0

    @property
    def path(self) -> Path:
        """What EXPUNGE_HOME names."""
        return self.folder / "home"

    @property
    def logs(self) -> Path:
        """Whatever the processes printed, a file each."""
        return self.folder / "logs"

    @property
    def settings(self) -> Settings:
        """The settings that every process here has."""
        return Settings(home=self.path)

    @property
    def keyring(self) -> Keyring:
        """The keys of the installation."""
        return load_keyring(self.settings)

    def prepare(self) -> None:
        """Make keys, database and the two API keys."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.admin_key = json.loads(self.run("expunge", "init", "--json").out)["admin_key"]
        scopes = ("--scope", "deletions:create", "--scope", "deletions:read", "--json")
        self.product_key = json.loads(self.run("expunge", "keys", "create", "shop", *scopes).out)["key"]

    def copy(self, folder: Path) -> "Home":
        """Return an installation like this one, in which nothing runs."""
        copy = Home(folder=folder)
        copy.take_over(self)
        return copy

    def take_over(self, other: "Home") -> None:
        """Become a copy of another installation, in which nothing runs any more."""
        other.wait_for("quiet", lambda: not any(process.family() for process in other.processes))
        shutil.copytree(other.path, self.path)
        self.admin_key, self.product_key = other.admin_key, other.product_key

    def run(self, *command: str, code: int = 0) -> Done:
        """Run a command to its end, which must be this exit code."""
        done = self.finish(self.begin(*command))
        assert done.code == code, f"{command} ended with {done.code}\n{self.told()}"
        return done

    def run_with_input(self, text: str, *command: str) -> Done:
        """Run a command that reads this line from its standard input."""
        process = self.begin(*command, stdin=subprocess.PIPE)
        process.popen.communicate(text.encode())
        done = self.finish(process)
        assert done.code == 0, self.told()
        return done

    def begin(
        self, *command: str, stdin: int = subprocess.DEVNULL, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command, with more variables if there are any; ``finish`` waits for it."""
        self._num_logs += 1
        self.logs.mkdir(exist_ok=True)
        name = f"{self._num_logs:02d}-{'-'.join(part for part in command[:2] if part.isidentifier())}"
        with (self.logs / f"{name}.out").open("wb") as out, (self.logs / f"{name}.err").open("wb") as err:
            popen = subprocess.Popen(
                [str(COMMANDS / command[0]), *command[1:]], stdin=stdin, stdout=out, stderr=err,
                cwd=self.folder, env={**self._environment(), **(environment or {})}, start_new_session=True,
            )  # fmt: skip
        process = Process(name=name, popen=popen)
        self.processes.append(process)
        return process

    def finish(self, process: Process) -> Done:
        """Wait for a command's end."""
        try:
            code = process.popen.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{process.name} does not end\n{self.told()}") from None
        out, err = ((self.logs / f"{process.name}.{end}").read_text() for end in ("out", "err"))
        return Done(code=code, out=out, err=err)

    def worker(self) -> Process:
        """Start a worker that runs jobs until it is stopped."""
        return self.begin("expunge-worker", "work")

    @contextmanager
    def service(self) -> Iterator[Service]:
        """Serve the API on a free port until the block ends."""
        port = _free_port()
        process = self.begin("expunge", "serve", "--port", str(port))
        url = f"http://127.0.0.1:{port}"
        with self._client(url, self.admin_key) as admin, self._client(url, self.product_key) as product:

            def is_ready() -> bool:
                assert process.popen.poll() is None, f"the server has ended\n{self.told()}"
                with suppress(httpx.TransportError):
                    return admin.get("/readyz").status_code == 200
                return False

            self.wait_for("the server", is_ready)
            yield Service(home=self, process=process, admin=admin, product=product)
        process.stop()

    def wait_for(self, what: str, look: Callable[[], T]) -> T:
        """Look until there is something (true) to see, and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := look()):
            assert time.monotonic() < deadline, f"{what} did not come in time\n{self.told()}"
            time.sleep(GLANCE_SECONDS)
        return found

    def told(self) -> str:
        """Return the ends of all logs and the jobs, to be read by a person."""
        parts = [f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.logs.glob("*"))]
        with suppress(sqlite3.OperationalError):
            parts += [str(dict(row)) for row in self.rows("SELECT * FROM jobs")]
        return "\n".join(parts)

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Open the database beside the processes that use it, to look."""
        with closing(sqlite3.connect(self.path / "expunge.db", isolation_level=None, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            yield database

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return what a query finds."""
        with self.database() as database:
            return database.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> Any:
        """Return the only value that a query finds."""
        ((value,),) = self.rows(query, *values)
        return value

    def store_files(self) -> list[str]:
        """Return the names of all files in the store, those of half-written ones too."""
        return sorted(path.name for path in (self.path / "store").rglob("*") if path.is_file())

    def close(self) -> None:
        """End everything that was started here."""
        for process in self.processes:
            process.destroy()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
        return kept | {
            "EXPUNGE_HOME": str(self.path),
            "EXPUNGE_LEASE_SECONDS": str(LEASE_SECONDS),
            "EXPUNGE_POLL_SECONDS": "0.05",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    @staticmethod
    def _client(url: str, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_SECONDS)


def processes_ended(processes: list[psutil.Process]) -> bool:
    """Whether none of these processes runs any more; one that nobody has waited for has ended too."""
    return not any(_is_alive(process) for process in processes)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile needs none."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _session_of(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        if _is_alive(process):
            return os.getsid(process.pid)
    return None


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
