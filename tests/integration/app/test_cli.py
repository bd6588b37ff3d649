"""The command ``expunge``."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from app.cli import main
from app.domain.terms import JsonObject
from app.keyring import Keyring
from app.services.claim import fail
from app.settings import Settings, get_settings
from app.signing import public_keys, sign
from tests.support.world import World

ROOT = Path(__file__).parents[3]
STATEMENT: JsonObject = {"type": "expunge/receipt@1", "request": "del_1"}


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Runs ``expunge`` in an installation."""

    def __call__(self, settings: Settings, *arguments: str, stdin: str = "", **environment: str) -> Done: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: its own interpreter costs seconds each time."""

    def execute(settings: Settings, *arguments: str, stdin: str = "", **environment: str) -> Done:
        with monkeypatch.context() as patch:
            for name, value in {**_environment(settings), **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["expunge", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            get_settings.cache_clear()
            with pytest.raises(SystemExit) as ended:
                main()
        out = capsys.readouterr()
        return Done(returncode=int(ended.value.code or 0), stdout=out.out, stderr=out.err)

    return execute


def _environment(settings: Settings) -> dict[str, str]:
    url = {"EXPUNGE_DATABASE_URL": settings.database_url} if settings.database_url else {}
    return {"EXPUNGE_HOME": str(settings.home), **url}


def _refused(done: Done, code: int = 2) -> str:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def nothing(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """An installation that nobody has made yet."""
    url = request.getfixturevalue("empty_postgres_url") if dialect == "postgres" else ""
    return Settings(home=tmp_path / "new", database_url=url)


def test_init_makes_home_keys_database_and_one_admin_key_and_a_second_run_nothing(
    run: Run, nothing: Settings
) -> None:
    home = nothing.home
    first = json.loads(run(nothing, "init", "--json").stdout)
    assert re.fullmatch(r"exp_[0-9a-f]{12}_[\w-]{43}", first["admin_key"])
    assert home.stat().st_mode & 0o777 == 0o700
    keys = sorted((home / "keys").iterdir())
    assert [key.name for key in keys] == ["hmac.key", "plan-root.key", "signing.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    before = [key.read_text() for key in keys]
    again = run(nothing, "init")
    assert "everything is there already" in again.stdout
    assert [key.read_text() for key in keys] == before
    assert len(json.loads(run(nothing, "keys", "list", "--json").stdout)) == 1


def test_init_closes_a_home_that_was_there_to_everybody_else(run: Run, nothing: Settings) -> None:
    nothing.home.mkdir(mode=0o755)
    nothing.home.chmod(0o755)
    run(nothing, "init")
    assert nothing.home.stat().st_mode & 0o777 == 0o750


def test_init_can_print_fresh_secrets_that_serve_instead_of_files_and_makes_nothing(
    run: Run, nothing: Settings
) -> None:
    env = dict(line.split("=") for line in run(nothing, "init", "--print-env").stdout.splitlines())
    assert not nothing.home.exists()
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in env.values())
    assert env.items().isdisjoint(json.loads(run(nothing, "init", "--print-env", "--json").stdout).items())
    made = json.loads(run(nothing, "init", "--json", **env).stdout)
    assert made["new_keys"] == []
    assert made["admin_key"]
    assert "another HMAC key" in _refused(
        run(nothing, "keys", "list", **{**env, "EXPUNGE_HMAC_KEYS": "ab" * 32})
    )


def test_serve_refuses_in_one_line_what_is_not_set_up(
    run: Run, nothing: Settings, settings: Settings
) -> None:
    assert "expunge init" in _refused(run(nothing, "serve"))
    assert not nothing.home.exists()
    (settings.keys_folder / "hmac.key").unlink()
    assert "no key at" in _refused(run(settings, "serve"))


def test_a_database_filled_under_another_key_is_refused(run: Run, nothing: Settings) -> None:
    run(nothing, "init")
    (nothing.keys_folder / "hmac.key").write_text("ab" * 32 + "\n")
    assert "another HMAC key" in _refused(run(nothing, "serve"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("EXPUNGE_GRACE_SECONDS", "soon"), ("EXPUNGE_DATABASE_URL", "nonsense"), ("EXPUNGE_HMAC_KEYS", "zz")],
)
def test_wrong_settings_are_one_line_without_their_values(
    run: Run, settings: Settings, name: str, value: str
) -> None:
    assert value not in _refused(run(settings, "keys", "list", **{name: value})).replace("nonsense URL", "")


COMMANDS = {
    "serve": ["serve"],
    "migrate": ["migrate"],
    "init": ["init"],
    "keys create": ["keys", "create", "shop", "--scope", "admin"],
    "keys list": ["keys", "list"],
    "keys revoke": ["keys", "revoke", "key_1"],
    "deletions list": ["deletions", "list"],
    "deletions show": ["deletions", "show", "del_1"],
    "deletions retry": ["deletions", "retry", "churn"],
    "models list": ["models", "list"],
    "models versions": ["models", "versions", "churn"],
    "subjects readmit": ["subjects", "readmit"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_not_there_is_one_line_without_its_password(
    run: Run, migrated_home: Path, command: str
) -> None:
    away = Settings(
        home=migrated_home, database_url="postgresql+psycopg://expunge:sekret@127.0.0.1:9/expunge"
    )
    said = _refused(run(away, *COMMANDS[command], stdin="ann\n"))
    assert "the database cannot be used: connection failed" in said
    assert "sekret" not in said


@pytest.mark.parametrize("url", ["nonsense", "postgresql+psycopg://expunge:sekret@host:sekret/expunge"])
def test_a_url_of_no_database_is_named_and_not_repeated(run: Run, migrated_home: Path, url: str) -> None:
    said = _refused(run(Settings(home=migrated_home, database_url=url), "serve"))
    assert said == "error: EXPUNGE_DATABASE_URL is not a database URL\n"


def test_a_file_that_is_no_database_is_one_line(run: Run, settings: Settings) -> None:
    sqlite = Settings(home=settings.home)
    (settings.home / "expunge.db").write_text("not a database " * 100)
    assert "database" in _refused(run(sqlite, "keys", "list"))


def test_keys_are_created_listed_and_revoked(run: Run, settings: Settings) -> None:
    made = json.loads(run(settings, "keys", "create", "shop", "--scope", "deletions:create", "--json").stdout)
    assert run(settings, "keys", "revoke", made["id"]).returncode == 0
    (listed,) = json.loads(run(settings, "keys", "list", "--json").stdout)
    assert (listed["name"], listed["scopes"]) == ("shop", ["deletions:create"])
    assert listed["revoked_at"] is not None
    assert made["key"] not in json.dumps(listed)
    _refused(run(settings, "keys", "revoke", "key_nix"))


def test_deletions_and_models_are_listed_and_shown(run: Run, settings: Settings, world: World) -> None:
    world.trained(subjects={"ann": 1})
    request_id = world.sealed("ann")
    assert request_id in run(settings, "deletions", "list").stdout
    shown = json.loads(run(settings, "deletions", "show", request_id).stdout)
    assert shown["targets"][0]["truth"]["job"]["status"] == "queued"
    assert "churn" in run(settings, "models", "list").stdout
    (version,) = json.loads(run(settings, "models", "versions", "churn", "--json").stdout)
    assert version["number"] == 1
    assert "no job of this model has failed" in run(settings, "deletions", "retry", "churn").stdout
    _refused(run(settings, "deletions", "retry", "ghost"))


@pytest.mark.parametrize("width", [{}, {"COLUMNS": "40"}])
def test_piped_every_row_is_one_line_with_its_whole_cells(
    run: Run, settings: Settings, world: World, width: dict[str, str]
) -> None:
    world.trained("a-model-with-a-name-" + "x" * 60, subjects={"ann": 1})
    ids = [world.sealed(name) for name in ("ann", "bob")]
    lines = run(settings, "deletions", "list", **width).stdout.splitlines()
    for request_id in ids:
        (line,) = [line for line in lines if request_id in line]
        assert re.search(r"scheduled.+\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line)
    listed = run(settings, "models", "list", **width).stdout.splitlines()
    (named,) = [line for line in listed if "x" * 60 in line]
    assert "a-model-with-a-name-" in named
    assert "current=1" in named


def test_retrying_says_which_jobs_were_queued_and_nothing_else(
    run: Run, settings: Settings, world: World
) -> None:
    world.trained(subjects={"ann": 1})
    world.sealed("ann")
    claim = world.claim()
    fail(world.sessions, claim, store=world.store, error="disk full", is_retryable=True)
    done = run(settings, "deletions", "retry", "churn")
    assert re.fullmatch(r"queued job_[0-9a-f]{32}\n", done.stdout)
    assert done.stderr == ""


def test_a_prior_is_set_and_shown_and_one_that_does_not_fit_is_refused_by_its_name(
    run: Run, settings: Settings, world: World
) -> None:
    world.trained(subjects={"ann": 1})
    policy = ("models", "policy", "churn", "--set")
    shown = run(settings, *policy, 'prior={"kind": "recency", "half_life_blocks": 2}').stdout
    assert "prior = kind=recency, half_life_blocks=2.0\n" in shown
    said = _refused(run(settings, *policy, 'prior={"kind": "weights", "weights": [1, 2, 3]}'))
    assert "prior.weights: give 4, one a block, not 3" in said
    assert shown == run(settings, "models", "policy", "churn").stdout


def test_a_subject_is_readmitted_by_an_id_from_stdin(run: Run, settings: Settings, world: World) -> None:
    world.post("ann")
    assert run(settings, "subjects", "readmit", stdin="ann\n").stdout == "lifted 1 suppressions\n"
    assert run(settings, "subjects", "readmit", stdin="ann\n").stdout == "lifted 0 suppressions\n"
    _refused(run(settings, "subjects", "readmit", stdin="\n"))


@pytest.fixture
def receipt(tmp_path: Path, keyring: Keyring) -> tuple[Path, Path]:
    token, keys = tmp_path / "receipt.jws", tmp_path / "keys.json"
    token.write_text(sign(STATEMENT, keyring=keyring) + "\n")
    keys.write_text(json.dumps(public_keys(keyring)))
    return token, keys


def test_a_receipt_verifies_offline_and_a_changed_one_does_not(
    run: Run, receipt: tuple[Path, Path], tmp_path: Path
) -> None:
    token, keys = receipt
    good = run(Settings(home=tmp_path), "receipt", "verify", str(token), "--keys", str(keys))
    assert (good.returncode, json.loads(good.stdout)) == (0, STATEMENT)
    text = token.read_text()
    token.write_text(text[:40] + ("A" if text[40] != "A" else "B") + text[41:])
    _refused(run(Settings(home=tmp_path), "receipt", "verify", str(token), "--keys", str(keys)), 1)


def test_what_cannot_be_read_is_no_verdict_on_a_receipt(
    run: Run, receipt: tuple[Path, Path], tmp_path: Path
) -> None:
    token, keys = receipt
    _refused(run(Settings(home=tmp_path), "receipt", "verify", str(tmp_path / "none"), "--keys", str(keys)))
    keys.write_text("[]")
    _refused(run(Settings(home=tmp_path), "receipt", "verify", str(token), "--keys", str(keys)))
    keys.write_text("{}")
    _refused(run(Settings(home=tmp_path), "receipt", "verify", str(token), "--keys", str(keys)), 1)
    _refused(
        run(
            Settings(home=tmp_path), "receipt", "verify", str(token), "--keys", "http://127.0.0.1:9/jwks.json"
        )
    )


def test_the_description_needs_neither_keys_nor_database(run: Run, tmp_path: Path) -> None:
    done = run(Settings(home=tmp_path / "none"), "openapi")
    assert json.loads(done.stdout)["openapi"].startswith("3.1")
    assert not (tmp_path / "none").exists()


def test_a_process_of_its_own_serves_until_it_is_told_to_stop(settings: Settings) -> None:
    known = {**os.environ, **_environment(settings), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=known, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        started = next(line for line in server.stderr if "running on" in line)
        assert json.loads(started)["level"] == "info"
        port = int(re.findall(r":(\d+) ", started)[0])
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").json()["keys"] is True
        assert json.loads(next(server.stderr))["route"] == "/readyz"
        server.terminate()
        server.stderr.read()
    assert server.returncode in (0, -15)
