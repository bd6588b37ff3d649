"""``expunge``: set the service up, run it, look into it.

Mistakes end as one line on stderr and exit code 2, never as a trace.
"""

import json
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError
from urllib.request import urlopen

import typer
import uvicorn
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from app.api.deps import Context
from app.db import migrate as migrations
from app.db.connecting import reason_of
from app.db.listing import Filters
from app.domain.access import Caller, Scope
from app.domain.errors import ExpungeError, ReceiptInvalid, SetupError
from app.domain.receipts import said_of_models
from app.domain.scheduling import DAY_SECONDS
from app.domain.terms import DEFAULT_TENANT, JsonObject, KeyId
from app.keyring import KEY_BYTES, create_keys, fresh_keys
from app.logs import configure_logging
from app.main import open_context, openapi_document
from app.services.api_keys import create_key, has_admin_key, list_keys, revoke_key
from app.services.change_policy import change_policy
from app.services.installation import adopt_keys, require_fit
from app.services.readmit import readmit
from app.services.retry import retry_failed
from app.services.show_deletions import list_deletions, show_deletion
from app.services.show_models import list_models, list_versions, model_id_named
from app.settings import Settings, get_settings
from app.signing import verify
from models_store.errors import StoreError

EXIT_NOT_VALID = 1
EXIT_REFUSED = 2
_FETCH_SECONDS = 10.0
_PIPED_WIDTH = 100_000
# What docker-compose.yml asks for besides the keys; hexadecimal, so that they can stand in a URL.
_SERVER_PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys_app = typer.Typer(help="API keys.", no_args_is_help=True)
deletions_app = typer.Typer(help="Deletion requests.", no_args_is_help=True)
models_app = typer.Typer(help="Models and versions.", no_args_is_help=True)
subjects_app = typer.Typer(help="Suppressed subjects.", no_args_is_help=True)
receipt_app = typer.Typer(help="Receipts.", no_args_is_help=True)
for name, part in {
    "keys": keys_app, "deletions": deletions_app, "models": models_app, "subjects": subjects_app,
    "receipt": receipt_app,
}.items():  # fmt: skip
    app.add_typer(part, name=name)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# The command line acts for whoever can read the keys: an admin of the default tenant.
_OPERATOR = Caller(key_id=KeyId("cli"), tenant=DEFAULT_TENANT, scopes=frozenset({Scope.ADMIN}))


def main() -> None:
    """Run a command; what a person can mend is one line, not a trace."""
    try:
        app()
    except ReceiptInvalid as error:
        _stop(str(error), code=EXIT_NOT_VALID)
    except SQLAlchemyError as error:
        _stop(f"the database cannot be used: {reason_of(error)}", code=EXIT_REFUSED)
    except (ExpungeError, StoreError, OSError) as error:
        _stop(_first_line(error), code=EXIT_REFUSED)


@app.command()
def init(
    as_json: AsJson = False,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Only print fresh secrets, as lines of an .env file.")
    ] = False,
) -> None:
    """Make the home folder, the keys, the database and the first admin key; again, it changes nothing."""
    if print_env:
        _print_env(as_json=as_json)
        return
    settings = get_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _close_to_others(settings.home)
    made = [str(path) for path in create_keys(settings)]
    migrations.upgrade(settings.resolved_database_url)
    with _context(settings) as context:
        adopt_keys(context.sessions, context.keyring)
        token = _first_admin_key(context)
    facts: JsonObject = {"home": str(settings.home.resolve()), "new_keys": [*made], "admin_key": token}
    _print_json(facts) if as_json else _print_facts(made, home=settings.home.resolve(), token=token)


def _close_to_others(home: Path) -> None:
    """Take a home that was there already from everybody else: the files in it lean on its mode."""
    mode = home.stat().st_mode
    if not mode & stat.S_IRWXO:
        return
    try:
        home.chmod(mode & ~stat.S_IRWXO)
    except PermissionError:
        print(f"warning: {home} is open to everybody on this machine", file=sys.stderr)


@app.command("migrate")
def migrate_command() -> None:
    """Bring the database to the newest schema."""
    settings = get_settings()
    migrations.upgrade(settings.resolved_database_url)
    print(f"the database is at migration {migrations.head_revision()}")


@app.command()
def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes behind the port.")] = 1,
) -> None:
    """Serve the HTTP API; refuses when the keys are missing or the database is not at the head."""
    settings = get_settings()
    with _fit_context(settings) as context:
        adopt_keys(context.sessions, context.keyring)
    configure_logging()
    uvicorn.run(
        "app.main:create_app_of_several", factory=True, workers=workers, host=host, port=port,
        log_config=None, access_log=False, server_header=False,
    )  # fmt: skip


@app.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 description."""
    _print_json(openapi_document())


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[list[Scope], typer.Option(help="May be given several times.")],
    days: Annotated[float | None, typer.Option(min=0, help="Expires after so many days.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it once."""
    lifetime = None if days is None else days * DAY_SECONDS
    with _fit_context() as context:
        key = create_key(
            context.sessions, tenant=DEFAULT_TENANT, name=name, scopes=set(scope), lifetime_seconds=lifetime
        )
    _print_json({"id": key.id, "key": key.token}) if as_json else print(key.token)


@keys_app.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """List the API keys; none can be shown again."""
    with _fit_context() as context:
        keys = [asdict(key) for key in list_keys(context.sessions, tenant=DEFAULT_TENANT)]
    _print_rows(keys, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id or prefix.")]) -> None:
    """Refuse an API key from now on."""
    with _fit_context() as context:
        view = revoke_key(context.sessions, key, tenant=DEFAULT_TENANT)
    print(f"revoked {view.id} ({view.name})")


@deletions_app.command("list")
def deletions_list(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50, as_json: AsJson = False
) -> None:
    """List deletion requests, newest first."""
    with _fit_context() as context:
        page = list_deletions(
            context.sessions,
            caller=_OPERATOR,
            filters=Filters(),
            limit=limit,
            token=None,
            keyring=context.keyring,
        )
    items = [asdict(item) for item in page.items]
    columns = ("id", "status", "posted_at", "due_at", "days_left", "completed_at")
    _print_rows(items, as_json=as_json, columns=columns)


@deletions_app.command("show")
def deletions_show(deletion_id: str) -> None:
    """Print one deletion request with all that is known of it."""
    with _fit_context() as context:
        _print_json(asdict(show_deletion(context.sessions, deletion_id, caller=_OPERATOR)))


@deletions_app.command("retry")
def deletions_retry(model: Annotated[str, typer.Argument(help="The model whose jobs failed.")]) -> None:
    """Queue the failed jobs of a model again; each resumes at the step that failed."""
    with _fit_context() as context:
        model_id = model_id_named(context.sessions, model, tenant=DEFAULT_TENANT)
        jobs = retry_failed(context.sessions, model_id)
    print("\n".join(f"queued {job}" for job in jobs) or "no job of this model has failed")


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models."""
    with _fit_context() as context:
        models = [asdict(model) for model in list_models(context.sessions, tenant=DEFAULT_TENANT)]
    _print_rows(models, as_json=as_json, columns=("name", "dataset", "num_sealed", "aliases", "created_at"))


@models_app.command("versions")
def models_versions(model: str, as_json: AsJson = False) -> None:
    """List the versions of a model."""
    with _fit_context() as context:
        versions = [asdict(v) for v in list_versions(context.sessions, model, tenant=DEFAULT_TENANT)]
    columns = (
        "number",
        "status",
        "covers",
        "settled",
        "guarantee",
        "method",
        "aliases",
        "published_at",
        "revoked_at",
    )
    _print_rows(versions, as_json=as_json, columns=columns)


@models_app.command("policy")
def models_policy(
    model: str,
    setting: Annotated[list[str] | None, typer.Option("--set", help="name=value, repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the policy of a model, after changing what --set names."""
    with _fit_context() as context:
        changes = dict(_setting(text) for text in setting or [])
        policy = asdict(change_policy(context.sessions, model, changes, tenant=DEFAULT_TENANT))
    if as_json:
        _print_json(policy)
    else:
        print("\n".join(f"{name} = {_cell(name, value) or 'none'}" for name, value in policy.items()))


@subjects_app.command("readmit")
def subjects_readmit(subject_type: Annotated[str, typer.Option("--type")] = "person") -> None:
    """Let later data of a subject be imported again; the id is read from stdin, never from the arguments."""
    subject_id = typer.prompt("subject id", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    with _fit_context() as context:
        try:
            refs = context.keyring.subject_refs(subject_id, subject_type=subject_type)
        except ValueError as error:
            raise SetupError(str(error)) from None
        num_lifted = readmit(context.sessions, refs, tenant=DEFAULT_TENANT)
    print(f"lifted {num_lifted} suppressions")


@receipt_app.command("verify")
def receipt_verify(
    file: Annotated[Path, typer.Argument(help="The receipt; - reads stdin.")],
    keys: Annotated[str, typer.Option(help="URL or file of the JSON Web Key Set.")],
) -> None:
    """Verify a receipt (offline, when the keys are a file) and print it; exit code 1 if it is not valid."""
    token = sys.stdin.read() if str(file) == "-" else _text_of(file)
    statement = verify(token, keys=_key_set(keys))
    print("valid: signed by these keys and unchanged since", file=sys.stderr)
    print("\n".join(said_of_models(statement)), file=sys.stderr)
    Console().print_json(json.dumps(statement, sort_keys=True))


@contextmanager
def _context(settings: Settings) -> Iterator[Context]:
    context = open_context(settings)
    try:
        yield context
    finally:
        context.engine.dispose()


@contextmanager
def _fit_context(settings: Settings | None = None) -> Iterator[Context]:
    """Open what is there, and refuse what is not fit, without making anything."""
    settings = settings or get_settings()
    migrations.require_database_file(settings.resolved_database_url)
    with _context(settings) as context:
        require_fit(context.engine, context.sessions, context.keyring)
        yield context


def _setting(text: str) -> tuple[str, object]:
    """Return name and value of ``name=value``; numbers, true, false and none are what they look like."""
    name, separator, value = text.partition("=")
    if not separator:
        raise SetupError(f"--set {text}: write name=value")
    try:
        return name.strip(), None if value.strip() == "none" else json.loads(value)
    except ValueError:
        return name.strip(), value.strip()


def _first_admin_key(context: Context) -> str | None:
    if has_admin_key(context.sessions, tenant=DEFAULT_TENANT):
        return None
    return create_key(context.sessions, tenant=DEFAULT_TENANT, name="first admin", scopes={Scope.ADMIN}).token


def _key_set(source: str) -> dict[str, Any]:
    try:
        found = json.loads(
            _fetched(source) if source.startswith(("http://", "https://")) else _text_of(Path(source))
        )
    except ValueError as error:
        raise SetupError(f"{source} is not JSON") from error
    if not isinstance(found, dict):
        raise SetupError(f"{source} is not a JSON Web Key Set")
    return found


def _fetched(url: str) -> str:
    try:
        with urlopen(url, timeout=_FETCH_SECONDS) as answer:  # the scheme was checked by the caller
            return str(answer.read().decode())
    except (URLError, OSError) as error:
        raise SetupError(f"{url} cannot be fetched: {_first_line(error)}") from error


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ReceiptInvalid(f"{path} is not text") from error


def _print_facts(made: list[str], *, home: Path, token: str | None) -> None:
    print(f"home: {home}")
    for path in made:
        print(f"made {path}")
    if token:
        print(f"admin key (shown once): {token}")
    if not made and not token:
        print("everything is there already; nothing was made")


def _print_env(*, as_json: bool) -> None:
    env = fresh_keys() | {name: secrets.token_hex(KEY_BYTES) for name in _SERVER_PASSWORDS}
    _print_json(env) if as_json else print("\n".join(f"{name}={secret}" for name, secret in env.items()))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool, columns: tuple[str, ...] = ()) -> None:
    if as_json:
        _print_json(rows)
        return
    shown = columns or tuple(rows[0] if rows else ())
    table = Table()
    for column in shown:
        table.add_column(column, overflow="fold")  # an id that is cut off cannot be used
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in shown))
    # Only a screen has an edge: whoever reads from a pipe looks for a row in one line.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    console.print(table if rows else "none")


def _cell(column: str, value: object) -> str:
    if column.endswith("_at") and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    if isinstance(value, tuple | list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={part}" for key, part in value.items() if part is not None)
    return "" if value is None else str(value)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _stop(message: str, *, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
