"""Checkpoint stitching on real data, part by part; rule and thresholds are those of the recipe file.

`headline`: 60 deletions over six seeds that chose nothing, half of them mislabelled, subjects of 1 and 5
records; deletions without a stitch count as the exact replays that they were. `sweep`: blocks, place, size
and epsilon. `order`: what block-sequential training costs. `backdoor`: two-sided, its power first. `sisa`:
shards beside it. `cifar`: 30 deletions with a small ResNet on a part of CIFAR-10. `served`: claim to
published. None of the figures on accuracy, loss or disagreement is proof of forgetting: doing nothing stands
beside each.
"""

import json
import multiprocessing
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.progress import track

from app.domain.policy import StitchRule
from benchmarks.cifar import cifar_folder
from benchmarks.homes import RECIPES
from benchmarks.mnist import mnist_folder
from benchmarks.packages import DataMissing
from benchmarks.results import FOLDER, Row, Sheet, print_rows, sheet, write_rows
from benchmarks.stitch import backdoor, headline, order, served, sisa, sweep
from benchmarks.stitch.images import Images, images_of
from worker.data.sources import SourceOptions, read_source
from worker.training.recipe import Recipe, read_recipe

COMMAND = "make bench-stitch"
# Seeds 100 and above were used to choose the rule; these were not.
HEADLINE_SEEDS, OTHER_SEEDS = tuple(range(6)), tuple(range(10, 13))
ORDER_SEEDS = tuple(range(5))
NUM_PROCESSES = 2
NUM_CIFAR = 30_000

Work = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Bench:
    """What is trained on, the recipe, and the rule that its file fixes."""

    recipe: Recipe
    images: Images
    rule: StitchRule


def main() -> int:
    """Run the parts that were asked for; each writes its own results."""
    options = _options()
    for part in options.parts:
        try:
            rows = PARTS[part]()
        except DataMissing as error:
            print(f"stitch: {error}", file=sys.stderr)
            return 2
        print_rows(rows, title=f"stitch, {part}")
        print(f"wrote {write_rows(f'stitch-{part}', rows)}")
    return 0


@cache
def mnist() -> Bench:
    """Return all of MNIST with LeNet-5."""
    images = images_of(read_source(str(mnist_folder()), format="idx", options=SourceOptions()))
    return _bench("mnist-stitch", images)


@cache
def cifar() -> Bench:
    """Return some of CIFAR-10 with the small ResNet: where there is no accelerator all of it takes days."""
    images = images_of(read_source(str(cifar_folder()), format="sheets", options=SourceOptions()))
    return _bench("cifar-stitch", images.first(NUM_CIFAR))


def run_headline() -> list[Row]:
    """Return the table of 60 deletions and, of others, claim to published; the raw figures lie beside it."""
    # First: it needs the machine for itself, and a service that cannot start shows at once.
    served_rows = run_served()
    return [*_deletions(mnist(), HEADLINE_SEEDS, data="mnist"), *served_rows]


def run_cifar() -> list[Row]:
    """Return the same table for CIFAR-10."""
    return _deletions(cifar(), OTHER_SEEDS, data="cifar")


def run_sweep() -> list[Row]:
    """Return the cuts."""
    bench = mnist()
    work = [
        (sweep.one_sweep, (bench.recipe, bench.images, bench.rule, num_blocks, seed))
        for num_blocks in sweep.BLOCKS
        for seed in OTHER_SEEDS
    ]
    return sweep.rows_of(_sheet(), _run(work), bench.rule)


def run_order() -> list[Row]:
    """Return accuracy by number of blocks."""
    bench = mnist()
    work = [
        (order.one_order, (bench.recipe, bench.images, num_blocks, seed))
        for num_blocks in order.BLOCKS
        for seed in ORDER_SEEDS
    ]
    return order.rows_of(_sheet(), _run(work))


def run_backdoor() -> list[Row]:
    """Return success by place."""
    bench = mnist()
    work = [
        (backdoor.one_backdoor, (bench.recipe, bench.images, bench.rule, place, seed))
        for place in backdoor.PLACES
        for seed in OTHER_SEEDS
    ]
    return backdoor.rows_of(_sheet(), _run(work))


def run_sisa() -> list[Row]:
    """Return what shards save and cost."""
    bench = mnist()
    work = [
        (sisa.one_sisa, (bench.recipe, bench.images, num_shards, seed))
        for num_shards in sisa.SHARDS
        for seed in OTHER_SEEDS
    ]
    return sisa.rows_of(_sheet(), _run(work))


def run_served() -> list[Row]:
    """Return ratios of blocks and of seconds, through the service."""
    return served.rows_of(_sheet(), *served.measure())


PARTS: dict[str, Callable[[], list[Row]]] = {
    "headline": run_headline,
    "sweep": run_sweep,
    "order": run_order,
    "backdoor": run_backdoor,
    "sisa": run_sisa,
    "cifar": run_cifar,
    "served": run_served,
}


def _bench(name: str, images: Images) -> Bench:
    recipe, policy = read_recipe(RECIPES / f"{name}.toml")
    return Bench(recipe, images, policy.stitch)


def _sheet() -> Sheet:
    return sheet(COMMAND, threads=1)


def _deletions(bench: Bench, seeds: Sequence[int], *, data: str) -> list[Row]:
    work = [(headline.one_seed, (bench.recipe, bench.images, bench.rule, seed)) for seed in seeds]
    found = _run(work)
    _write_raw(f"stitch-{data}", headline.to_json([outcome for seed in found for outcome in seed.outcomes]))
    return headline.rows_of(_sheet(), found, bench.rule, data=data)


def _run(work: Sequence[Work]) -> list[Any]:
    """Run everything on processes of one thread each; return the results in order."""
    fresh = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(NUM_PROCESSES, mp_context=fresh, max_tasks_per_child=1) as processes:
        futures = [processes.submit(partial(function, *arguments)) for function, arguments in work]
        return [future.result() for future in track(futures, description="deleting")]


def _write_raw(name: str, figures: list[dict[str, object]]) -> Path:
    path = FOLDER / "raw" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    return path


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.stitch")
    parser.add_argument("parts", nargs="*", default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
