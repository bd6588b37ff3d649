"""Where things are: home folder, database, store. Read once; never what is computed."""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.scheduling import LEASE_SECONDS


class Settings(BaseSettings):
    """Settings from the environment (``EXPUNGE_HOME``, ``EXPUNGE_DATABASE_URL``, ...)."""

    model_config = SettingsConfigDict(env_prefix="EXPUNGE_", frozen=True, extra="ignore")

    home: Path = Path("expunge-home")
    database_url: str = ""
    store_url: str = ""
    # Touched at every sweep of a worker: the health check of its container looks at the file's age.
    alive_file: Path | None = None
    # One hex key each line or comma; the first is primary. Files under home/keys when empty.
    hmac_keys: str = Field(default="", repr=False)
    plan_root: str = Field(default="", repr=False)
    signing_key: str = Field(default="", repr=False)
    max_body_bytes: int = 1 << 20
    grace_seconds: float = 0.0
    resident_bytes: int = 4 << 30
    poll_seconds: float = 0.25
    lease_seconds: float = LEASE_SECONDS

    @property
    def resolved_database_url(self) -> str:
        """The database, by default one SQLite file under home."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'expunge.db'}"

    @property
    def resolved_store_url(self) -> str:
        """The model store, by default a folder under home."""
        return self.store_url or str(self.home.resolve() / "store")

    @property
    def data_folder(self) -> Path:
        """Data files of the datasets."""
        return self.home.resolve() / "data"

    @property
    def scratch_folder(self) -> Path:
        """Temporary copies; emptied by the purge."""
        return self.home.resolve() / "scratch"

    @property
    def keys_folder(self) -> Path:
        """Secret keys, one file each, readable by the owner alone."""
        return self.home.resolve() / "keys"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process."""
    return Settings()
