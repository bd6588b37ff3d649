"""The entry point of ``expunge-worker``: says in one line when the worker's extra is not installed."""

import gc
import sys
from importlib.util import find_spec

_EXTRA = ("torch", "numpy", "safetensors", "pyarrow")


def main() -> None:
    """Run the command, or say how to install what it needs."""
    missing = next((name for name in _EXTRA if find_spec(name) is None), None)
    if missing:
        sys.exit(f"expunge-worker: {missing} is missing; install the worker: pip install 'expunge[worker]'")
    # Collecting what imports leave behind takes a third of the start, and they leave nothing behind.
    gc.disable()
    if sys.argv[1:2] == ["work"]:
        from worker.commands import main as run  # a supervisor imports neither torch nor numpy
    else:
        from worker.cli import main as run
    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
