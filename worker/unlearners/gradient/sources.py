"""Which sources a gradient method's result is a function of, besides its settings and its seed."""

import hashlib
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_FOLDERS = (_HERE, _HERE.parents[2] / "app" / "domain" / "methods")


@cache
def gradient_sources() -> str:
    """Return the SHA-256 of our sources that shape a course or an edit.

    What a job saved with other sources is not gone on from: the same settings may mean other steps.
    """
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
