"""Fresh processes: children of one forkserver that has imported what every job needs.

Promises: a child starts in tens of milliseconds, in its own memory, with torch imported and no tensor
operation run. Never: a plain fork, which mixes neither with threads nor with CUDA.
"""

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from enum import IntEnum
from multiprocessing.context import ForkServerContext

# Every optimizer imports torch._dynamo when it is made: more than a second in each child.
_PR_SET_PDEATHSIG = 1
_PRELOADED = ["torch", "torch._dynamo", "worker.child", "worker.proof"]


class Ending(IntEnum):
    """Exit codes of a child; any other is an accident."""

    DONE = 0
    GOES_ON = 10
    GAVE_UP = 11
    LEASE_LOST = 12


def fresh_processes() -> ForkServerContext:
    """Return the context whose processes start fresh; there is one forkserver a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


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
