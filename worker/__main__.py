"""The entry point of ``expunge-worker``: says in one line when the worker's extra is not installed."""

import sys

_EXTRA = ("torch", "numpy", "safetensors", "pyarrow")


def main() -> None:
    """Run the command, or say how to install what it needs."""
    try:
        if sys.argv[1:2] == ["work"]:
            from worker.commands import main as run  # a supervisor never imports torch
        else:
            from worker.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        hint = "install the worker: pip install 'expunge[worker]'"
        sys.exit(f"expunge-worker: {error.name} is missing; {hint}")
    run()


if __name__ == "__main__":
    main()
