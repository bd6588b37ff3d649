"""What a worker process holds open: settings, database, store, keys."""

from dataclasses import dataclass

from sqlalchemy import Engine

from app.db.connecting import WORKER_PATIENCE_SECONDS
from app.db.session import Sessions, open_engine, open_sessions
from app.keyring import Keyring, load_keyring
from app.settings import Settings
from models_store.blobs import BlobStore, open_store
from worker.data.contents import FileContents
from worker.data.erasure import Eraser


@dataclass(frozen=True)
class Installation:
    """One process's connections to one installation."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    store: BlobStore
    keyring: Keyring

    @property
    def erase(self) -> Eraser:
        """Zeroes rows in this installation's data files."""
        return Eraser(self.settings.data_folder)

    @property
    def contents(self) -> FileContents:
        """Reads labels and writes corrected records in this installation's data files."""
        return FileContents(self.settings.data_folder)


def open_installation(
    settings: Settings, *, patience_seconds: float = WORKER_PATIENCE_SECONDS
) -> Installation:
    """Open everything; a process that was started fresh calls this once.

    ``patience_seconds`` is how long connecting waits for a database that is away.

    Raises:
        SetupError: a key is missing or malformed.
    """
    keyring = load_keyring(settings)
    engine = open_engine(settings.resolved_database_url, patience_seconds=patience_seconds)
    store = open_store(settings.resolved_store_url)
    return Installation(
        settings=settings, engine=engine, sessions=open_sessions(engine), store=store, keyring=keyring
    )
