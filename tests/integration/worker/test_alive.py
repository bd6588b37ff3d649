"""A container's health check looks at the age of a file that a worker touches."""

from pathlib import Path

from app.services.workers import WorkerFacts
from app.settings import Settings
from worker.housekeeper import Housekeeper
from worker.installation import open_installation


def test_a_worker_touches_its_file_at_every_sweep(settings: Settings, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    own = open_installation(settings.model_copy(update={"alive_file": alive}))
    facts = WorkerFacts(owner="w", device_class="cpu", environment_digest="e" * 64)
    housekeeper = Housekeeper(own, facts)
    assert not alive.exists()
    housekeeper.sweep()
    first = alive.stat().st_mtime_ns
    housekeeper.sweep()
    assert alive.stat().st_mtime_ns > first
