"""Fresh processes: children of one forkserver that has imported what every job needs.

Promises: a child starts in tens of milliseconds, in its own memory, with torch imported and no tensor
operation run. Never: a plain fork, which mixes neither with threads nor with CUDA; torch in this process.
"""

import ctypes
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.context import ForkServerContext
from typing import Any

from app.domain.errors import ExpungeError
from models_store.errors import StoreError
from worker.training.recipe import RecipeRefused

_PR_SET_PDEATHSIG = 1
_PRELOADED = ["worker.preload"]
# What a supervisor says to its child; silence without end is its death.
STOP = "stop"


class ProcessDied(ExpungeError):
    """A fresh process was killed before it had an answer."""


class CallFailed(ExpungeError):
    """What was called in a fresh process, somebody's net for instance, ended with an error of its own."""


class Ending(IntEnum):
    """Exit codes of a child; any other is an accident."""

    DONE = 0
    GOES_ON = 10
    GAVE_UP = 11
    LEASE_LOST = 12
    HANDED_OVER = 13
    LOST_DATABASE = 14
    NOT_STARTED = 15


def fresh_processes() -> ForkServerContext:
    """Return the context whose processes start fresh; there is one forkserver a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@dataclass(frozen=True)
class FreshCalls:
    """Calls of functions that this process cannot import, each in a fresh process, one after the other."""

    pool: ProcessPoolExecutor

    def begin(self, function: str, *args: object) -> Future[Any]:
        """Begin a call of a function named ``module:name``; its result or its error comes with ``result``."""
        return self.pool.submit(_call, function, *args)

    def call(self, function: str, *args: object) -> Any:
        """Call a function and return what it returns."""
        return self.begin(function, *args).result()


@contextmanager
def fresh_calls() -> Iterator[FreshCalls]:
    """Yield what calls in fresh processes.

    Raises:
        ProcessDied: one was killed, for its memory for instance.
    """
    try:
        with ProcessPoolExecutor(
            1, mp_context=fresh_processes(), initializer=die_with_parent, max_tasks_per_child=1
        ) as pool:
            yield FreshCalls(pool)
    except BrokenProcessPool as error:
        raise ProcessDied("a process that tried the recipe out was killed; out of memory?") from error


def _call(function: str, *args: object) -> Any:
    """Call a function; of an error that is not ours only the text goes back: it may not unpickle."""
    module, _, name = function.partition(":")
    called = getattr(importlib.import_module(module), name)
    try:
        return called(*args)
    except (ExpungeError, StoreError, RecipeRefused):
        raise
    except Exception as error:  # noqa: BLE001 - a border: the code of others runs here
        raise CallFailed(f"{name}: {type(error).__name__}: {error}") from None


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a child and all that it started; one that is gone already needs none."""
    with suppress(ProcessLookupError):
        # It may not have come to making its own group yet.
        leads = os.getpgid(pid) == pid
        os.killpg(pid, number) if leads else os.kill(pid, number)


def die_by_signal() -> None:
    """Let the kernel kill this process when its parent, forkserver or command, dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """Let this process end when the one that started it does, however that ends.

    Each child holds the pipe that keeps the forkserver alive: one that waited for ever would keep both.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # only children call this
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
