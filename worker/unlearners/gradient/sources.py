"""Which sources a gradient method's result is a function of, besides its settings and its seed."""

import hashlib
from functools import cache
from pathlib import Path

from models_store.manifest import digest_json

_HERE = Path(__file__).resolve().parent
_FOLDERS = (_HERE, _HERE.parents[2] / "app" / "domain" / "methods")


@cache
def gradient_sources() -> str:
    """Return the SHA-256 of our sources that shape a course or an edit.

    What a job saved with other sources is not gone on from: the same settings may mean other steps.
    """
    return digest_json(
        {
            f"{folder.name}/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in _FOLDERS
            for path in folder.rglob("*.py")
        }
    )
