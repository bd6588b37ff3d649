"""docker-compose.yml and the Dockerfile, read and not run: schema, linter, and what we promise besides."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from app.cli import app as expunge
from app.keyring import fresh_keys, load_keyring
from app.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

ONE_SHOT = {"migrate"}
WORKERS = {"worker-cpu", "worker-gpu"}
OURS = {"api"} | ONE_SHOT | WORKERS
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
EVERY_WORKER = pytest.mark.parametrize("worker", sorted(WORKERS))

# Read where they are used and not through Settings.
OTHER_VARIABLES = {"EXPUNGE_DEVICE"}
# What an operator may choose and need not.
CHOICES = {"API_PORT", "FILES_DIR", "GPU_ID", "TORCH_INDEX"}
# A child that does not stop by itself gets SIGTERM, and SIGKILL after so many seconds.
KILL_SECONDS = 10
_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rule>:\?|:?-)(?P<default>[^}]*)\}")


def _tool(name: str, *arguments: str) -> None:
    program = Path(sys.executable).parent / name
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _filled(value: str, secrets: dict[str, str]) -> str:
    """What Compose makes of a value, given an .env file."""
    return _VARIABLE.sub(lambda found: secrets.get(found["name"], found["default"]), value).replace("$$", "$")


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def _stage(name: str) -> str:
    """The instructions of one stage of the Dockerfile."""
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_compose_file_follows_the_schema_of_the_specification() -> None:
    _tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    _tool("hadolint", "--failure-threshold", "style", "Dockerfile")


@EVERY_SERVICE
def test_no_service_is_root_may_become_it_or_writes_to_its_root(service: dict[str, Any]) -> None:
    # Both official images start as root only to hand their volume over; as these users they go straight on.
    assert service["user"] in {"10001:10001", "postgres", "redis"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"} & service.keys()


@EVERY_SERVICE
def test_nothing_of_the_host_is_mounted_but_files_to_read(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", []):
        source, _, rest = re.sub(r"\$\{[^}]*\}", "host", volume).partition(":")
        assert source in COMPOSE["volumes"] or rest.endswith(":ro")


def test_each_service_shows_its_health_or_runs_once() -> None:
    for name, service in SERVICES.items():
        is_one_shot = name in ONE_SHOT
        assert service["restart"] == ("no" if is_one_shot else "unless-stopped")
        assert ("healthcheck" in service) is not is_one_shot


@EVERY_WORKER
@pytest.mark.parametrize(("age_seconds", "is_healthy"), [(0, True), (45, True), (75, False), (None, False)])
def test_a_worker_is_healthy_while_its_file_is_young(
    worker: str, tmp_path: Path, age_seconds: int | None, is_healthy: bool
) -> None:
    alive = tmp_path / "alive"
    if age_seconds is not None:
        alive.touch()
        os.utime(alive, times=(time.time() - age_seconds,) * 2)
    shell, command = SERVICES[worker]["healthcheck"]["test"]
    assert shell == "CMD-SHELL"
    environment = {**os.environ, "EXPUNGE_ALIVE_FILE": str(alive)}
    done = subprocess.run(["sh", "-c", _filled(command, {})], env=environment, stderr=subprocess.DEVNULL)
    assert (done.returncode == 0) is is_healthy


def test_secrets_have_no_defaults_and_init_prints_each_of_them() -> None:
    found = list(_VARIABLE.finditer(COMPOSE_TEXT))
    assert len(found) == len(re.findall(r"(?<!\$)\$(?!\$)", COMPOSE_TEXT))
    required = {match["name"] for match in found if match["rule"] == ":?"}
    assert {match["name"] for match in found} - required == CHOICES
    command = [sys.executable, "-m", "app.cli", "init", "--print-env"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert required == {line.partition("=")[0] for line in printed.splitlines()}


@EVERY_SERVICE
def test_what_is_secret_is_a_required_variable(service: dict[str, Any]) -> None:
    secret = {
        name: value
        for name, value in service["environment"].items()
        if re.search(r"PASSWORD|AUTH|KEY|ROOT|DATABASE_URL|BROKER_URL", name)
    }
    assert secret
    assert all(re.search(r"\$\{\w+:\?\}", value) for value in secret.values())


@EVERY_WORKER
def test_a_worker_has_more_time_to_stop_than_it_gives_its_child(worker: str) -> None:
    service = SERVICES[worker]
    graceful = int(service["environment"]["EXPUNGE_STOP_SECONDS"]) + KILL_SECONDS
    assert _seconds(service["stop_grace_period"]) > graceful
    assert service["init"] is True  # as process 1 a worker would not get the signal while it starts


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_service_knows_every_variable_and_its_settings_load(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        key: value for key, value in SERVICES[name]["environment"].items() if key.startswith("EXPUNGE_")
    }
    known = {f"EXPUNGE_{field.upper()}" for field in Settings.model_fields}
    assert variables.keys() <= known | OTHER_VARIABLES
    keys = fresh_keys()
    for key, value in variables.items():
        monkeypatch.setenv(
            key, _filled(value, {**keys, "POSTGRES_PASSWORD": "5ecret", "REDIS_PASSWORD": "x"})
        )
    settings = Settings()
    assert load_keyring(settings).plan_root.hex() == keys["EXPUNGE_PLAN_ROOT"]
    url = make_url(settings.resolved_database_url)
    assert (url.get_backend_name(), url.host, url.password) == ("postgresql", "postgres", "5ecret")


def test_one_profile_reserves_a_gpu_and_each_worker_sees_one_at_most() -> None:
    cpu, gpu = SERVICES["worker-cpu"], SERVICES["worker-gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert len(device["device_ids"]) == 1
    assert (gpu["environment"]["EXPUNGE_DEVICE"], gpu["environment"]["CUDA_VISIBLE_DEVICES"]) == ("cuda", "0")
    assert "deploy" not in cpu
    assert (cpu["environment"]["EXPUNGE_DEVICE"], cpu["environment"]["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"worker-cpu": ["cpu"], "worker-gpu": ["gpu"]}


def test_the_migrations_end_well_before_api_and_workers_start() -> None:
    for name in OURS - ONE_SHOT:
        waits_for = {other: how["condition"] for other, how in SERVICES[name]["depends_on"].items()}
        assert waits_for == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }
    program, command = SERVICES["migrate"]["command"]
    assert program == "expunge"
    assert command in {found.name for found in expunge.registered_commands}


def test_only_the_api_is_reached_from_outside_and_from_this_machine_alone() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert {name for name, service in SERVICES.items() if service["networks"] != ["inside"]} == {"api"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["api"]["ports"])


def test_the_api_cannot_write_a_version_or_see_a_data_file() -> None:
    assert SERVICES["api"]["volumes"] == ["store:/var/lib/expunge-store:ro"]


def test_every_image_is_pinned_to_a_version() -> None:
    official = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert all(re.fullmatch(r"[a-z]+:\d+(\.\d+)?-[a-z-]+", image) for image in official | {python})
    stages = set(re.findall(r" AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) <= stages | {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_an_image_ends_as_the_user_that_compose_names_and_builds_nothing(name: str) -> None:
    stage = _stage(SERVICES[name]["build"]["target"])
    assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == [SERVICES[name]["user"]]
    assert stage.index("USER") > stage.rindex("RUN")
    assert "COPY" not in stage
    assert "apt-get" not in DOCKERFILE


def test_a_build_sees_all_of_the_package_and_nothing_else() -> None:
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert first == "*"
    seen = {line.removeprefix("!") for line in rest if line.startswith("!")}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert seen == {*wheel["packages"], "pyproject.toml", "constraints.txt", "README.md"}
    copied = re.findall(r"^COPY (.*) \S+$", _stage("source"), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == seen
