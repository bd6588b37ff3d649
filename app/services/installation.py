"""Is this installation fit to serve? The database must be migrated and belong to these keys.

Refs made with other HMAC keys find nobody, and every deletion would end as "no data": the database
remembers the key that its hashes were made with, and a service with other keys does not start.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.keys import notes, remember
from app.db.migrate import require_head
from app.db.session import Sessions, reading, writing
from app.domain.errors import SetupError
from app.keyring import Keyring

_HMAC_KEY = "hmac_key:"


@dataclass(frozen=True)
class Readiness:
    """What was looked at; every True is needed before traffic may come."""

    database: bool
    migrations: bool
    keys: bool

    @property
    def is_ready(self) -> bool:
        """Whether all of it is well."""
        return not self.missing

    @property
    def missing(self) -> list[str]:
        """What is not well, by name."""
        return [name for name, is_well in asdict(self).items() if not is_well]


def adopt_keys(sessions: Sessions, keyring: Keyring) -> None:
    """Remember the live HMAC keys, so that none of them is ever lost unnoticed.

    Raises:
        SetupError: the database was filled under a key that is not among them.
    """
    _require_own(sessions, keyring)
    with writing(sessions) as session:
        for key_id in keyring.key_ids():
            remember(session, _HMAC_KEY + key_id, "in use")


def require_fit(engine: Engine, sessions: Sessions, keyring: Keyring) -> None:
    """Make sure that the service may start.

    Raises:
        SetupError: the database is not at the head, or was filled under other keys.
    """
    require_head(engine)
    _require_own(sessions, keyring)


def readiness(engine: Engine, sessions: Sessions, keyring: Keyring) -> Readiness:
    """Look at database, migrations and keys; never raises for what it looks at."""
    try:
        require_head(engine)
    except SetupError:
        return Readiness(database=True, migrations=False, keys=False)
    except SQLAlchemyError:
        return Readiness(database=False, migrations=False, keys=False)
    return Readiness(database=True, migrations=True, keys=_is_own(sessions, keyring))


def _is_own(sessions: Sessions, keyring: Keyring) -> bool:
    with reading(sessions) as session:
        needed = set(notes(session, prefix=_HMAC_KEY))
    return needed <= {_HMAC_KEY + key_id for key_id in keyring.key_ids()}


def _require_own(sessions: Sessions, keyring: Keyring) -> None:
    if not _is_own(sessions, keyring):
        raise SetupError(
            "the database was filled under another HMAC key: add it to keys/hmac.key below the first line"
        )
