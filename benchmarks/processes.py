"""Real processes over one home folder: the commands of the project, run as anybody would run them.

Promises: whatever was started is gone when the ``with`` block is left, by its end, an error or a signal; the
last words of a process that failed are in the error. Each logs to a file of its own.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

BIN = Path(sys.executable).parent
STOP_SECONDS = 10.0
SAMPLE_SECONDS = 0.1


class ProcessFailed(Exception):
    """A process ended otherwise than it should have; the message holds its last words."""


class Processes:
    """Starts commands with ``EXPUNGE_HOME`` set and stops those that still run at the end."""

    def __init__(self, home: Path, *, logs: Path) -> None:
        self._logs = logs
        # One thread: for nets this small more are slower.
        self._environment = {"OMP_NUM_THREADS": "1", **os.environ, "EXPUNGE_HOME": str(home.resolve())}
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._started):
            self.stop(process)

    def run(self, *command: str, shows_progress: bool = False, may_fail: bool = False) -> str:
        """Run a command of the project to its end and return what it printed (nothing if it was shown).

        Raises:
            ProcessFailed: it ended with another code than 0.
        """
        stdout = None if shows_progress else subprocess.PIPE
        process, log = self._popen(command, stdout=stdout)
        printed, _ = process.communicate()
        if process.returncode and not may_fail:
            raise ProcessFailed(_last_words(command, log, code=process.returncode))
        return printed or ""

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command that runs until it is stopped."""
        process, _ = self._popen(command, stdout=subprocess.DEVNULL)
        return process

    def require_running(self, process: subprocess.Popen[str]) -> None:
        """Make sure that a process which should run still does.

        Raises:
            ProcessFailed: it has ended.
        """
        if process.poll() is not None:
            command = [Path(str(part)).name for part in list(process.args)[:2]]  # type: ignore[arg-type]
            raise ProcessFailed(_last_words(command, self._log(command), code=process.returncode))

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Ask a process to end, wait, and end it with all its children if it does not."""
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # the signal below leaves it no choice
                process.wait(STOP_SECONDS)
        _kill_group(process.pid)
        process.wait()

    def _popen(self, command: tuple[str, ...], *, stdout: int | None) -> tuple[subprocess.Popen[str], Path]:
        log = self._log(command)
        with log.open("w") as errors:
            # A session of its own: Ctrl-C reaches us alone, and we stop it in order.
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                stdout=stdout,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process, log

    def _log(self, command: tuple[str, ...] | list[str]) -> Path:
        return self._logs / ("-".join(command[:2]) + ".log")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program in order, as Ctrl-C does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_over(home: Path) -> list[int]:
    """Return the ids of living servers and workers of a home folder."""
    wanted = home.resolve()
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = any(Path(part).name in ("expunge", "expunge-worker") for part in process.cmdline()[:2])
            if is_ours and _home_of(process) == wanted:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return found


def _home_of(process: psutil.Process) -> Path:
    """Return the home folder of a process; a relative one hangs on its own working directory, not on ours."""
    return (Path(process.cwd()) / process.environ().get("EXPUNGE_HOME", "")).resolve()


def peak_memory_bytes(process: subprocess.Popen[str]) -> int:
    """Wait for a process and return the highest resident size of any one of its descendants.

    Linux keeps the high-water mark itself, so a look every tenth of a second misses nothing but the last.
    """
    peak = 0
    while process.poll() is None:
        peak = max([peak, *_high_water_marks(process.pid)])
        time.sleep(SAMPLE_SECONDS)
    return peak


def _high_water_marks(pid: int) -> list[int]:
    marks = []
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    for child in children:
        try:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        except OSError:
            continue
        marks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return marks


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody of it is left


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _last_words(command: tuple[str, ...] | list[str], log: Path, *, code: int) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return f"`{' '.join(command[:2])}` ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
