"""An oracle that has imported torch already: each audit is a child of its own, forked before any operation.

Run as ``python -m tests.support.oracle_host``: it reads folders, a line each, and prints what the oracle says
of each, or nothing between braces. Promises: this interpreter holds ``worker.oracle`` and nothing else of
ours, as that of ``expunge-worker oracle`` does; importing it takes seconds, training on a few digits a
fraction of one.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from worker.oracle import train_copy
from worker.processes import die_by_signal


def main() -> None:
    """Answer until nobody asks any more."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _answer(Path(line.rstrip("\n")))
        _, status = os.waitpid(child, 0)
        if status:
            _say({})


def _answer(folder: Path) -> NoReturn:
    die_by_signal()
    code = 1
    try:
        _say(train_copy(folder))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def _say(answer: Mapping[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
