"""``expunge-worker``: import data, check recipes, train, work, audit. One clear line for every error."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter
from rich.console import Console

from app.domain.policy import Policy
from app.domain.terms import DEFAULT_TENANT
from app.logs import configure_logging
from app.services.claim import job_view
from app.services.create_model import NewModel, TrainingOrder, create_model
from app.services.publish import current_version
from worker import auditing, checking, progress, registering
from worker.commands import one_line, open_home, work
from worker.data.importing import ImportOrder, import_source
from worker.data.sources import SourceOptions, read_source
from worker.installation import Installation
from worker.supervisor import Supervisor
from worker.training.recipe import Recipe, RecipeRefused, read_recipe
from worker.training.registered import read_registered

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console()
app.command()(work)


def main() -> None:
    """Run the command; only a working worker logs what goes well."""
    configure_logging(level=logging.WARNING)
    app()


@app.command("import")
@one_line
def import_command(
    source: Annotated[str, typer.Argument(help="A file, a folder, or `digits`.")],
    name: Annotated[str, typer.Option(help="What the dataset is called.")] = "",
    format: Annotated[str | None, typer.Option(help="parquet, npz, idx, sheets or digits.")] = None,
    labels: Annotated[Path | None, typer.Option(help="The labels file of an IDX images file.")] = None,
    subjects: Annotated[Path | None, typer.Option(help="PNG sheets: CSV of record_id, subject_id.")] = None,
    record_column: Annotated[str | None, typer.Option()] = None,
    subject_column: Annotated[str | None, typer.Option()] = None,
    label_column: Annotated[str | None, typer.Option()] = None,
    split_column: Annotated[str | None, typer.Option()] = None,
    likelihood_column: Annotated[str | None, typer.Option(help="Of deletion, one value a subject.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Feature columns; all numeric ones.")] = None,
    subject_type: Annotated[str, typer.Option(help="What a subject id names, at both doors.")] = "person",
    held_out: Annotated[float, typer.Option(help="Share of subjects held out, without a split.")] = 0.1,
    records_per_subject: Annotated[int | None, typer.Option(help="Make synthetic subjects.")] = None,
) -> None:
    """Import a dataset: Parquet, .npz, IDX (MNIST) files, PNG sheets (CIFAR-10), or scikit-learn's digits."""
    own = open_home()
    given = {
        "record_column": record_column,
        "subject_column": subject_column,
        "label_column": label_column,
        "split_column": split_column,
        "likelihood_column": likelihood_column,
        "labels_path": labels,
        "subjects_path": subjects,
        "records_per_subject": records_per_subject,
        "features_columns": tuple(features) if features else None,
    }
    options = SourceOptions(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    table = read_source(source, format=format, options=options)
    order = ImportOrder(name=name or Path(source).stem, subject_type=subject_type, held_out_share=held_out)
    done = import_source(
        own.sessions,
        table,
        order,
        tenant=DEFAULT_TENANT,
        keyring=own.keyring,
        data_folder=own.settings.data_folder,
    )
    progress.print_import(out, order.name, table, done)


@app.command()
@one_line
def check(recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE")]) -> None:
    """Say what a recipe costs and prove on two blocks that it replays bit for bit."""
    own = open_home()
    recipe, policy = _read(own, recipe_file)
    checked = checking.check(own, recipe, policy, tenant=DEFAULT_TENANT)
    progress.print_check(out, recipe, policy, checked)
    _require_replay(checked)


@app.command()
@one_line
def train(recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE")]) -> None:
    """Train a recipe and publish version 1; after a stop, run it again to go on."""
    own = open_home()
    recipe, policy = _read(own, recipe_file)
    out.print(f"{recipe.name}: trying two blocks out")
    order = _order(own, recipe, policy)
    if order.job_id is None:
        out.print(f"{recipe.name} is trained already; its policy is now the file's")
        _print_trained(own, recipe, order)
        return
    if not order.is_new:
        out.print(f"{recipe.name}: going on with the training that was begun")
    supervisor = Supervisor(own)
    supervisor.stop_on_signals()
    with supervisor.housekeeper.at_work(on_end=supervisor.stop):
        progress.follow_training(out, own, supervisor, order.job_id)
    view = job_view(own.sessions, order.job_id)
    if view.error:
        raise RecipeRefused(f"training failed at {view.step}: {view.error}")
    _print_trained(own, recipe, order)


@app.command()
@one_line
def register(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE")],
    weights: Annotated[Path, typer.Option(help="The trained weights: one safetensors file.")],
    trained_without_erased: Annotated[
        bool, typer.Option(help="The weights never met what was erased from the dataset before.")
    ] = False,
) -> None:
    """Publish a model that was trained elsewhere as version 1.

    RECIPE has batch_size and no plan. Its policy must say accept_empirical = true: only gradient methods can
    treat a deletion, and receipts then say "treated by". It is sfron unless final_method names another.
    """
    own = open_home()
    recipe, policy = read_registered(recipe_file)
    done = registering.register(
        own, recipe, policy, weights=weights, tenant=DEFAULT_TENANT,
        trained_without_erased=trained_without_erased,
    )  # fmt: skip
    version = current_version(own.sessions, done.model_id)
    assert version is not None  # it is published with its model
    progress.print_trained(out, own, recipe.name, version)
    if done.num_held_out:
        out.print(
            f"note: {done.num_held_out} held-out records count as never met in training; if they were, "
            "import the data with the split that the training had",
            soft_wrap=True,
        )


@app.command()
@one_line
def oracle(
    model: Annotated[str, typer.Argument()],
    version: Annotated[str, typer.Option(help="A number or an alias.")] = "current",
    poisoned: Annotated[bool, typer.Option(help="Keep forgotten records in the copy, as NaN.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Train a version again, in a process where the forgotten records never existed, and compare digests."""
    found = auditing.audit(open_home(), model, tenant=DEFAULT_TENANT, version=version, poisoned=poisoned)
    if as_json:
        print(json.dumps({**vars(found), "is_equal": found.is_equal}))
    else:
        out.print(f"published {found.published_digest}\noracle    {found.oracle_digest}", soft_wrap=True)
        out.print("equal, bit for bit" if found.is_equal else "[red]different[/red]")
        if not found.is_same_environment:
            out.print("the version was trained in another environment: other bits say nothing here")
    raise typer.Exit(0 if found.is_equal else 1)


@app.command()
@one_line
def trace(
    job: Annotated[str, typer.Argument(help="A job that stitched or used a gradient method.")],
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
) -> None:
    """Show what a stitching job or a gradient method measured on its way, where it stopped and why."""
    from worker.traces import draw, lines_of, trace_of  # drawing takes a second to import

    found = trace_of(open_home(), job, tenant=DEFAULT_TENANT)
    for line in lines_of(found):
        out.print(line, soft_wrap=True)
    if png is not None:
        draw(found, png)


def _read(own: Installation, path: Path) -> tuple[Recipe, Policy]:
    if checking.has_plan(path):
        return read_recipe(path)
    checking.require_trained_here(path)
    plan = checking.proposal_for(own, path, tenant=DEFAULT_TENANT)
    raise RecipeRefused(f"{path}: it has no [plan] table; for this dataset we propose\n\n{plan}")


def _order(own: Installation, recipe: Recipe, policy: Policy) -> TrainingOrder:
    checked = checking.check(own, recipe, policy, tenant=DEFAULT_TENANT)
    _require_replay(checked)
    new = NewModel(
        name=recipe.name,
        dataset=recipe.data.dataset,
        recipe=recipe.to_json(),
        recipe_digest=recipe.digest(),
        policy=TypeAdapter(Policy).dump_python(policy, mode="json"),
        training_seconds=checked.training_seconds,
    )
    place = partial(checking.placer, own.keyring, recipe)
    return create_model(own.sessions, new, tenant=DEFAULT_TENANT, place=place)


def _require_replay(checked: checking.Checked) -> None:
    if not checked.replays:
        names = ", ".join(checked.differing_tensors[:3])
        raise RecipeRefused(f"model.factory: training does not replay bit for bit; {names} differs")


def _print_trained(own: Installation, recipe: Recipe, order: TrainingOrder) -> None:
    version = current_version(own.sessions, order.model_id)
    if version is None:
        out.print(f"{recipe.name} goes on in another worker")
        return
    progress.print_trained(out, own, recipe.name, version)
