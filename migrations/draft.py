"""Draft the next migration from ``app/db/tables.py``: ``python -m migrations.draft 0002 "what it does"``.

To draw the first one anew while nothing is released: delete ``versions/0001_*.py``, then draft ``0001``.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from app.db.migrate import draft, upgrade


def main(revision: str, message: str) -> None:
    """Migrate an empty SQLite file to the head and write down what the tables have more."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'draft.db'}"
        upgrade(url)
        draft(url, message=message, revision=revision)


if __name__ == "__main__":
    main(*sys.argv[1:3])
