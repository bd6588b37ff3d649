"""What a person sees: the bar of a training, the table of a check."""

import json
import threading
import time
from collections.abc import Callable, Sequence

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.domain.policy import Policy
from app.domain.status import JobStatus
from app.domain.terms import JobId, JobView
from app.services.claim import job_view
from app.services.publish import PublishedVersion
from models_store.manifest import Manifest
from worker.checking import Checked, PlacementCost, proposed_plan
from worker.data.importing import Imported
from worker.data.sources import SourceTable
from worker.installation import Installation
from worker.supervisor import Supervisor
from worker.training.recipe import PlanPart, Recipe

POLL_SECONDS = 0.2
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED)


def follow_training(console: Console, own: Installation, supervisor: Supervisor, job_id: JobId) -> None:
    """Run a job in this process's supervisor, or wait for the worker that has it, with a bar meanwhile."""
    ended = threading.Event()
    watcher = threading.Thread(target=_show, args=(console, own, job_id, ended.is_set))
    watcher.start()
    try:
        while not supervisor.is_stopping and job_view(own.sessions, job_id).status not in _ENDED:
            if not supervisor.run_next(only=job_id):
                time.sleep(POLL_SECONDS)
    finally:
        ended.set()
        watcher.join()


def _show(console: Console, own: Installation, job_id: JobId, has_ended: Callable[[], bool]) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("waiting", total=None, rate="")
        started = time.monotonic()
        while not has_ended():
            _update(bar, task, job_view(own.sessions, job_id), seconds=time.monotonic() - started)
            time.sleep(POLL_SECONDS)
        view = job_view(own.sessions, job_id)
        if view.status is JobStatus.SUCCEEDED:
            bar.update(task, description="trained", completed=1, total=1)


def _update(bar: Progress, task: TaskID, view: JobView, *, seconds: float) -> None:
    done = float(str(view.progress.get("num_records", 0)))
    total = float(str(view.progress.get("total_records", 0)))
    rate = f"{done / seconds:,.0f} records/s" if done and view.step == "unlearn" else ""
    step = "training" if view.step == "unlearn" else view.step
    bar.update(task, description=step, completed=done, total=total or None, rate=rate)


def print_import(console: Console, name: str, source: SourceTable, done: Imported) -> None:
    """Print what an import stored, and what it took the source to be."""
    shape = " x ".join(str(n) for n in source.features.shape[1:])
    lines = [
        f"imported {name}: {done.num_records} records of {done.num_subjects} subjects, "
        f"{done.num_held_out} held out, {done.num_suppressed} skipped as suppressed",
        f"features: {shape} numbers of {source.features.dtype}; labels: 0 to {int(source.labels.max())}",
    ]
    if len(set(source.subject_ids)) == len(source.subject_ids) > 1:
        lines.append("note: every record is its own subject; name the column of people with --subject-column")
    console.print("\n".join(lines), soft_wrap=True)


def print_trained(console: Console, own: Installation, name: str, version: PublishedVersion) -> None:
    """Print which version is current and how well it does."""
    manifest = Manifest.from_bytes(own.store.get(version.manifest_digest))
    checks = json.loads(own.store.get(manifest.evidence))["checks"]
    after = checks["utility"]["figures"]["after"]
    shares = [f"{kind.replace('_', '-')} {share:.2%}" for kind, share in after.items() if share is not None]
    console.print(
        f"{name}: version {version.number} is current, weights {version.weights_digest}\n"
        f"accuracy: {', '.join(shares)}",
        soft_wrap=True,
    )
    for check_name, check in checks.items():
        if not check["holds"]:
            console.print(f"warning: {check_name}: {check['problem']}", soft_wrap=True)


def print_check(console: Console, recipe: Recipe, policy: Policy, checked: Checked) -> None:
    """Print what ``check`` found as a table."""
    sizes = sorted(checked.block_sizes)
    plan = recipe.plan
    table = Table(title=f"{recipe.name} on {recipe.data.dataset}", show_header=False)
    rows = {
        "training records": f"{checked.num_records:,} of {checked.num_subjects:,} subjects",
        "plan": _plan_line(plan),
        "block sizes": f"{sizes[0]} smallest, {sizes[len(sizes) // 2]} median, {sizes[-1]} largest",
        "records a batch": f"{checked.num_records / len(sizes) / plan.batches_per_block:.1f} on average, "
        f"batch_size {plan.batch_size}",
        "we would propose": _plan_line(
            proposed_plan(checked.num_records, batch_size=plan.batch_size, shards=plan.shards)
        ),
        "a full training": f"about {checked.training_seconds:.1f} s here",
        "one deletion replays": f"{checked.expected_replay_share:.0%} of it on average "
        f"(checkpoints = {policy.checkpoints})",
        "replay": "bit for bit"
        if checked.replays
        else "[red]differs[/red]: " + ", ".join(checked.differing_tensors),
    }
    if plan.hot_cuts:
        rows["hot last"] = _bands_line(plan, checked.band_sizes)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print(_placement_table(recipe.plan, policy, checked.placements))


def _bands_line(plan: PlanPart, sizes: Sequence[int]) -> str:
    """Say how many subjects lie in each range of blocks, from the coldest to the hottest."""
    names = [f"below {plan.hot_cuts[0]:g}", *(f"from {cut:g}" for cut in plan.hot_cuts)]
    bands = zip(names, sizes, plan.bands, strict=True)
    return "; ".join(
        f"{name}: {size:,} subjects, blocks {band[0]} to {band[-1]}" for name, size, band in bands
    )


def _placement_table(plan: PlanPart, policy: Policy, placements: Sequence[PlacementCost]) -> Table:
    """Return what each placement of checkpoints keeps and costs; a star marks the policy's own."""
    table = Table(
        title=f"one deletion, in blocks of {plan.num_positions * plan.shards}; * is the policy's",
        show_edge=False,
    )
    prior = f"prior: {policy.prior.kind}"
    for name in ("checkpoints", "kept", "bytes", "uniform", prior, "witness gap", "at most"):
        table.add_column(name, justify="left" if name == "checkpoints" else "right")
    for cost in placements:
        table.add_row(
            cost.placement + (" *" if cost.placement is policy.checkpoints else ""),
            f"{cost.num_checkpoints:,}",
            filesize.decimal(cost.num_bytes),
            f"{cost.num_blocks:.1f}",
            f"{cost.num_blocks_by_prior:.1f}",
            f"{cost.mean_gap:.1f}",
            str(cost.max_gap),
        )
    return table


def _plan_line(plan: PlanPart) -> str:
    shards = f"shards = {plan.shards}, " if plan.shards > 1 else ""
    return (
        f"{shards}blocks = {plan.blocks}, passes = {plan.passes}, epochs = {plan.epochs}, "
        f"batches_per_block = {plan.batches_per_block}, batch_size = {plan.batch_size}"
    )
