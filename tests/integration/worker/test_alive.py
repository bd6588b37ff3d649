"""A container's health check looks at the age of a file that a worker touches."""

from pathlib import Path

from app.settings import Settings
from worker.installation import open_installation
from worker.supervisor import Supervisor


def test_a_worker_touches_its_file_at_every_sweep(settings: Settings, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    supervisor = Supervisor(open_installation(settings.model_copy(update={"alive_file": alive})))
    assert not alive.exists()
    supervisor.work(until_idle=True)
    first = alive.stat().st_mtime_ns
    supervisor.work(until_idle=True)
    assert alive.stat().st_mtime_ns > first
