"""Fresh processes: children of one forkserver that has imported what every job needs.

Promises: a child starts in tens of milliseconds, in its own memory, with torch imported and no tensor
operation run. Never: a plain fork, which mixes neither with threads nor with CUDA.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext

# Every optimizer imports torch._dynamo when it is made: more than a second in each child.
_PRELOADED = ["torch", "torch._dynamo", "worker.child", "worker.proof"]


def fresh_processes() -> ForkServerContext:
    """Return the context whose processes start fresh; there is one forkserver a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
