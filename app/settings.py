"""Where things are: home folder, database, store. Read once; never what is computed."""

from functools import lru_cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.errors import SetupError
from app.domain.scheduling import LEASE_SECONDS

BROKER_SCHEMES = ("redis://", "rediss://")
_WHY_REDIS = "kombu's SQL and filesystem brokers lose messages when a worker is killed"


class Settings(BaseSettings):
    """Settings from the environment (``EXPUNGE_HOME``, ``EXPUNGE_DATABASE_URL``, ...)."""

    model_config = SettingsConfigDict(env_prefix="EXPUNGE_", frozen=True, extra="ignore")

    home: Path = Path("expunge-home")
    database_url: str = ""
    store_url: str = ""
    # One hex key each line or comma; the first is primary. Files under home/keys when empty.
    hmac_keys: str = Field(default="", repr=False)
    plan_root: str = Field(default="", repr=False)
    signing_key: str = Field(default="", repr=False)
    max_body_bytes: int = 1 << 20
    grace_seconds: float = 0.0
    resident_bytes: int = 4 << 30
    # Empty: workers poll the database. It may hold a password.
    broker_url: str = Field(default="", repr=False)
    poll_seconds: PositiveFloat = 0.25
    # How often an idle worker looks for jobs itself when a broker tells it of them.
    sweep_seconds: PositiveFloat = 10.0
    lease_seconds: PositiveFloat = LEASE_SECONDS
    # How long a job that was asked to stop has until its next block ends.
    stop_seconds: PositiveFloat = 30.0
    # None: what `worker.limits` derives from the job's own prediction.
    soft_limit_seconds: PositiveFloat | None = None
    # None: as much as the machine gives.
    child_memory_bytes: PositiveInt | None = None

    @field_validator("broker_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if url and not url.startswith(BROKER_SCHEMES):
            raise ValueError(f"a broker is {' or '.join(BROKER_SCHEMES)}: {_WHY_REDIS}")
        return url

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
    """Return the settings of this process.

    Raises:
        SetupError: a variable does not say what it must; its value is not repeated.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"EXPUNGE_{str(item['loc'][0]).upper()}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        raise SetupError("wrong settings: " + "; ".join(problems)) from error
