"""The demo: one person is forgotten, by real processes, and every promise is checked from outside.

A fresh installation under ``.demo``: import, train, serve, work; a deletion posted over HTTP; the new version
fetched over HTTP and compared with an oracle process in which the person's records never existed. Ends with
a table, code 1 if a check fails, and nothing that it started still running.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.domain.status import JobKind, RequestStatus
from benchmarks.client import POLL_SECONDS, AnswerUnexpected, Client, Download, wait_until_ready
from benchmarks.inside import Held, last_job, look_into, subjects_in_plan
from benchmarks.mnist import mnist_folder
from benchmarks.packages import DataMissing
from benchmarks.processes import (
    BIN,
    Processes,
    ProcessFailed,
    ended_by_signals,
    free_port,
    processes_over,
)
from benchmarks.verdict import (
    SHOWN_DIGITS,
    Check,
    digest_checks,
    forged,
    is_about,
    purge_check,
    receipt_check,
    revocation_checks,
    table_of,
    weights_digest_of,
)

FOLDER = Path(".demo")
HOME = FOLDER / "home"
RECIPES = Path(__file__).parent / "recipes"
PRODUCT_SCOPES = ("deletions:create", "deletions:read", "versions:read")
SETTLE_SECONDS = 600.0
BAR = (
    TextColumn("{task.description:<34}"),
    BarColumn(),
    TimeElapsedColumn(),
    TextColumn("{task.fields[seen]}"),
)
EXIT_CHECK_FAILED, EXIT_STOPPED, EXIT_INTERRUPTED = 1, 2, 130


class DemoStopped(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Dataset:
    """What is imported, and into how large synthetic subjects; the recipe has the same name."""

    name: str
    source: Callable[[], str]
    num_records: int
    records_per_subject: int

    def subject_ids(self) -> list[str]:
        """Return the names that the import gives the synthetic subjects."""
        num = -(-self.num_records // self.records_per_subject)
        return [f"synthetic-{index:06d}" for index in range(num)]


DATASETS = {
    "digits": Dataset("digits", lambda: "digits", num_records=1_797, records_per_subject=6),
    "mnist": Dataset("mnist", lambda: str(mnist_folder()), num_records=70_000, records_per_subject=5),
}


@dataclass(frozen=True)
class Keys:
    """The API keys of the two parties."""

    product: str
    admin: str


@dataclass(frozen=True)
class Service:
    """The running service as both parties reach it; ``check`` raises when a process is gone."""

    url: str
    product: Client
    admin: Client
    check: Callable[[], None]


@dataclass(frozen=True)
class Settled:
    """A deletion that is done: the acknowledgement of its POST and both receipts."""

    acknowledgement: dict[str, Any]
    receipt: str
    full_receipt: str


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Forget one person, and check it from outside.")
    parser.add_argument("--data", choices=sorted(DATASETS), default="digits")
    dataset = DATASETS[parser.parse_args().data]
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=110)
    try:
        with ended_by_signals():
            return run(dataset, out=out)
    except (DemoStopped, DataMissing, ProcessFailed, AnswerUnexpected) as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("demo: interrupted; everything it started is stopped", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(dataset: Dataset, *, out: Console) -> int:
    """Tell the story from an empty folder to the table."""
    source = dataset.source()
    fresh_folder()
    with Processes(HOME, logs=FOLDER / "logs") as processes:
        keys = install(processes, out=out)
        train(processes, dataset, source=source, out=out)
        service = serve(processes, keys, out=out)
        checks = forget(processes, service, dataset, out=out)
    out.print(table_of(checks, title=f"One person forgotten by the model `{dataset.name}`"))
    out.print(how_to_go_on(dataset))
    failed = [check.name for check in checks if check.holds is False]
    if failed:
        out.print(f"[bold red]failed: {', '.join(failed)}[/bold red]; the logs are in {FOLDER / 'logs'}")
        return EXIT_CHECK_FAILED
    return 0


def fresh_folder() -> None:
    """Empty the demo's folder, unless somebody works in it.

    Raises:
        DemoStopped: a server or worker of an earlier demo still runs.
    """
    running = processes_over(HOME)
    if running:
        ids = " ".join(str(pid) for pid in running)
        raise DemoStopped(f"{FOLDER} is in use by running processes; end them first: kill {ids}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(mode=0o700)


def install(processes: Processes, *, out: Console) -> Keys:
    """Make home folder, keys and database, and an API key for the product."""
    _say(out, "expunge init; expunge keys create product", "home folder, keys, database")
    admin = json.loads(processes.run("expunge", "init", "--json"))["admin_key"]
    scopes = [word for scope in PRODUCT_SCOPES for word in ("--scope", scope)]
    product = processes.run("expunge", "keys", "create", "product", *scopes).strip()
    for name, key in {"product": product, "admin": admin}.items():
        path = FOLDER / f"{name}.key"
        path.touch(mode=0o600)
        path.write_text(key + "\n")
    return Keys(product=product, admin=admin)


def train(processes: Processes, dataset: Dataset, *, source: str, out: Console) -> None:
    """Import the data and train version 1."""
    size = str(dataset.records_per_subject)
    _say(out, f"expunge-worker import {dataset.name}", f"synthetic subjects of {size} consecutive records")
    out.print(
        processes.run(
            "expunge-worker", "import", source, "--name", dataset.name, "--records-per-subject", size
        ).strip()
    )
    recipe = RECIPES / f"{dataset.name}.toml"
    _say(out, f"expunge-worker train {recipe.name}", "first proves on two blocks that the recipe replays")
    processes.run("expunge-worker", "train", str(recipe), shows_progress=True)


def serve(processes: Processes, keys: Keys, *, out: Console) -> Service:
    """Start the server and a worker."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    _say(out, f"expunge serve --port {port}; expunge-worker work", "two processes from now on")
    running = [
        processes.start("expunge", "serve", "--port", port),
        processes.start("expunge-worker", "work"),
    ]

    def check() -> None:
        for process in running:
            processes.require_running(process)

    wait_until_ready(url, check=check)
    product, admin = Client(url, key=keys.product), Client(url, key=keys.admin)
    return Service(url=url, product=product, admin=admin, check=check)


def forget(processes: Processes, service: Service, dataset: Dataset, *, out: Console) -> list[Check]:
    """Have one subject forgotten and return every check."""
    old = service.product.download(dataset.name, 1)
    short = old.facts["weights_digest"][:SHOWN_DIGITS]
    out.print(f"version 1: weights {short}…, held-out accuracy {_accuracy(old):.2%}")
    subject = middle_subject(dataset)
    words = f"{subject.num_records} records, in block {subject.block + 1} of the plan"
    _say(out, "POST /deletions", f"{subject.subject_id}: {words}")
    settled = settle(service, subject, out=out)
    new = service.product.download(dataset.name, "current")
    _keep(new)
    return [
        *check_weights(processes, dataset, old=old, new=new, num_records=subject.num_records, out=out),
        *check_revoked(service, f"/models/{dataset.name}", file=next(iter(old.files))),
        check_receipt(processes, service, settled, subject=subject),
        purge_check(
            settled.full_receipt,
            manifest_digest=old.facts["manifest_digest"],
            num_records=subject.num_records,
        ),
        accuracy_line(before=_accuracy(old), after=_accuracy(new)),
        *time_lines(),
    ]


def middle_subject(dataset: Dataset) -> Held:
    """Return a subject with all its records in the middle of the plan, for a replay of average length.

    Only the demo looks inside for that: plan and placements are secret, and a product needs neither.
    """
    own = look_into(HOME)
    held = subjects_in_plan(own, dataset.name, dataset.subject_ids())
    whole = [each for each in held if each.num_records == dataset.records_per_subject]
    own.engine.dispose()
    middle = max(each.block for each in held) / 2
    return min(whole, key=lambda each: (abs(each.block - middle), each.subject_id))


def settle(service: Service, subject: Held, *, out: Console) -> Settled:
    """Post the deletion and follow it until the product sees it completed."""
    acknowledgement = service.product.post_deletion(subject.subject_id)
    path = f"/deletions/{acknowledgement['id']}"
    until = time.monotonic() + SETTLE_SECONDS
    with Progress(*BAR, console=out) as bar:
        task = bar.add_task("waiting for the worker", total=None, seen="")
        status = ""
        while status != RequestStatus.COMPLETED:
            service.check()
            truth, status = service.admin.get(path).json(), service.product.get(path).json()["status"]
            words, share = _stage(truth)
            seen, total = f"the product sees: {status}", None if share is None else 1.0
            bar.update(task, description=words, completed=share, total=total, seen=seen)
            if truth["status"] == RequestStatus.FAILED or time.monotonic() > until:
                reason = truth["targets"][0]["truth"]["reason"]
                raise DemoStopped(f"the deletion is {truth['status']}: {reason}")
            time.sleep(POLL_SECONDS)
    receipts = (client.get(f"{path}/receipt").text for client in (service.product, service.admin))
    return Settled(acknowledgement, *receipts)


def check_weights(
    processes: Processes, dataset: Dataset, *, old: Download, new: Download, num_records: int, out: Console
) -> list[Check]:
    """Let the oracle train, and compare its digest with those of the downloaded bytes."""
    number = str(new.facts["number"])
    _say(out, f"expunge-worker oracle {dataset.name} --version {number}", "trains without the records")
    printed = processes.run(
        "expunge-worker", "oracle", dataset.name, "--version", number, "--json", may_fail=True
    )
    if not printed:
        raise DemoStopped(f"the oracle gave no answer; see {FOLDER / 'logs'}")
    before, after = (weights_digest_of(each) for each in (old, new))
    oracle = json.loads(printed)["oracle_digest"]
    return digest_checks(before=before, after=after, oracle=oracle, num_records=num_records)


def check_revoked(service: Service, model: str, *, file: str) -> list[Check]:
    """Try to fetch a file of the old version, and to bring the version back."""
    return revocation_checks(
        fetched=service.product.answer("GET", f"{model}/versions/1/files/{file}"),
        moved=service.admin.answer("PUT", f"{model}/aliases/current", body={"version": 1}),
    )


def check_receipt(processes: Processes, service: Service, settled: Settled, *, subject: Held) -> Check:
    """Verify the receipt with the command a product would use, from files alone."""
    keys = FOLDER / "jwks.json"
    keys.write_text(service.product.get("/.well-known/jwks.json").text)
    (FOLDER / "receipt-full.jws").write_text(settled.full_receipt)
    nonce = settled.acknowledgement["nonce"]
    return receipt_check(
        is_valid=_verifies(processes, settled.receipt, name="receipt.jws", keys=keys),
        is_forgery_valid=_verifies(processes, forged(settled.receipt), name="receipt-forged.jws", keys=keys),
        is_ours=is_about(settled.receipt, subject_id=subject.subject_id, nonce=nonce),
    )


def accuracy_line(*, before: float, after: float) -> Check:
    """State the accuracy on the held-out records."""
    return Check(
        name="held-out accuracy",
        result=f"{before:.2%} → {after:.2%}",
        meaning="what forgetting cost; it informs and forbids nothing",
    )


def time_lines() -> list[Check]:
    """State what the deletion took beside the first training, in the same terms."""
    own = look_into(HOME)
    training, replay = last_job(own, JobKind.TRAIN), last_job(own, JobKind.SETTLE)
    own.engine.dispose()
    return [
        Check(
            name="replay / full training",
            result=f"{replay.loop_seconds:.1f} s / {training.loop_seconds:.1f} s",
            meaning=f"{replay.num_blocks} of {training.num_blocks} blocks ran again",
        ),
        Check(
            name="from claim to the end, both",
            result=f"{replay.seconds:.1f} s / {training.seconds:.1f} s",
            meaning="with verification and publication; the deletion also with purge and receipt",
        ),
    ]


def how_to_go_on(dataset: Dataset) -> str:
    """Return the commands that take the demo's installation up again."""
    product, other = FOLDER / "product.key", dataset.subject_ids()[1]
    return f"""
Everything is stopped. To go on by hand with this installation:

  export EXPUNGE_HOME={HOME}
  {_bin("expunge")} serve --port 8000 &
  {_bin("expunge-worker")} work &
  curl -X POST http://127.0.0.1:8000/deletions -H 'Content-Type: application/json' \\
       -H "Authorization: Bearer $(cat {product})" -d '{{"subject_id": "{other}"}}'
  {_bin("expunge")} deletions list
  {_bin("expunge")} models versions {dataset.name}

The keys are in {product} and {FOLDER / "admin.key"}, the new version in {FOLDER / "version"},
the receipts in {FOLDER}, the logs in {FOLDER / "logs"}.
"""


def _stage(truth: dict[str, Any]) -> tuple[str, float | None]:
    """Return in words what the worker does, and the share of the replay that is done."""
    job = truth["targets"][0]["truth"]["job"]
    if truth["status"] == "completed":
        return "done; shown at the predicted time", 1.0
    if job is None or job["status"] != "running":
        return "waiting for the worker", None
    total = job["progress"].get("total_records")
    if job["step"] == "unlearn" and total:
        return "the worker: unlearn", job["progress"]["num_records"] / total
    return f"the worker: {job['step']}", None


def _verifies(processes: Processes, receipt: str, *, name: str, keys: Path) -> bool:
    path = FOLDER / name
    path.write_text(receipt)
    printed = processes.run("expunge", "receipt", "verify", str(path), "--keys", str(keys), may_fail=True)
    return bool(printed.strip())


def _accuracy(version: Download) -> float:
    figures = json.loads(version.files["evidence.json"])["checks"]["utility"]["figures"]
    return float(figures["after"]["held_out"])


def _keep(version: Download) -> None:
    folder = FOLDER / "version"
    folder.mkdir()
    for name, data in version.files.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(version.facts["manifest"], indent=2))


def _bin(command: str) -> Path:
    path = BIN / command
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(out: Console, command: str, words: str) -> None:
    out.print(f"[bold cyan]▸ {command}[/bold cyan]  {words}")


if __name__ == "__main__":
    sys.exit(main())
