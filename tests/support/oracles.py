"""Oracles that start at once: see ``oracle_host``. The acceptance tests run the command's own."""

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from worker.auditing import OracleStopped, oracle_environment

_ROOT = Path(__file__).parents[2]


class OracleHost:
    """A process that forks an oracle for each copy; it ends with whoever started it."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        atexit.register(self.close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.oracle_host"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, cwd=_ROOT, env=oracle_environment(),
        )  # fmt: skip

    def close(self) -> None:
        """End the process: it reads no more lines."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def run(self, folder: Path) -> Mapping[str, str]:
        """Have a fork of it train on a copy.

        Raises:
            OracleStopped: it ended without an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            print(folder, file=self._process.stdin, flush=True)
            answer: dict[str, str] = json.loads(self._process.stdout.readline())
        if not answer:
            raise OracleStopped("the oracle ended without an answer")
        return answer


@cache
def oracle_host() -> OracleHost:
    """Return the host of this test process; it starts when somebody first asks."""
    return OracleHost()
