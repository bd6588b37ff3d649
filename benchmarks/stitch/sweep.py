"""Blocks, place and size of a deletion, and epsilon: how a stitch depends on each; and what it stores."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.policy import StitchRule
from benchmarks.results import Row, Sheet
from benchmarks.stitch.headline import SQRT, Outcome, Stage, stage_of
from benchmarks.stitch.images import Images, Person, drawn_people
from benchmarks.stitch.training import named_within, seeded
from worker.training.placement import kept_positions
from worker.training.recipe import Recipe

BLOCKS = (100, 500, 1_000)
NUM_RECORDS = (1, 10, 100)
PLACES = {"early": 0.1, "middle": 0.5, "late": 0.85}
EPSILON_FACTORS = (0.1, 1.0, 10.0)
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Case:
    """One deletion of the sweep under one epsilon."""

    place: str
    epsilon: float
    outcome: Outcome


@dataclass(frozen=True)
class Sweep:
    """All cases of one training; checkpoints under `sqrt`; the bytes of a full state and of its weights."""

    cases: list[Case]
    num_blocks: int
    num_kept: int
    state_bytes: tuple[int, int]


def with_blocks(recipe: Recipe, num_blocks: int) -> Recipe:
    """Return a recipe with another number of blocks and as many steps in all."""
    plan = recipe.plan
    batches = max(1, round(plan.batches_per_block * plan.blocks / num_blocks))
    changed = plan.model_copy(update={"blocks": num_blocks, "batches_per_block": batches})
    return recipe.model_copy(update={"plan": changed})


def one_sweep(recipe: Recipe, images: Images, rule: StitchRule, num_blocks: int, seed: int) -> Sweep:
    """Return nine deletions from one training, each under several epsilons."""
    recipe = seeded(with_blocks(recipe, num_blocks), seed)
    people = _people(recipe, images, seed=seed)
    stage = stage_of(recipe, images, [person for _, person in people], seed=seed)
    rules = [replace(rule, epsilon=rule.epsilon * factor) for factor in EPSILON_FACTORS]
    cases = [case for place, person in people for case in _cases(stage, place, person, rules=rules)]
    return Sweep(cases, num_blocks, len(kept_positions(SQRT, plan=recipe.plan)), stage.training.state_bytes)


def rows_of(made: Sheet, sweeps: Sequence[Sweep], rule: StitchRule) -> list[Row]:
    """Return how often and how far a stitch went, one cut at a time; rejected ones count as replays."""
    rows = []
    for num_blocks in dict.fromkeys(sweep.num_blocks for sweep in sweeps):
        same = [sweep for sweep in sweeps if sweep.num_blocks == num_blocks]
        cases = [case for sweep in same for case in sweep.cases]
        ruled = [case for case in cases if case.epsilon == rule.epsilon]
        cuts = {"all": ruled}
        cuts |= {place: [c for c in ruled if c.place == place] for place in PLACES}
        cuts |= {f"{n} records": [c for c in ruled if c.outcome.num_records == n] for n in NUM_RECORDS}
        cuts |= {"mislabelled": [c for c in ruled if c.outcome.is_mislabelled]}
        cuts |= {
            f"epsilon x {factor:g}": [c for c in cases if c.epsilon == rule.epsilon * factor]
            for factor in EPSILON_FACTORS
        }
        for name, cut in cuts.items():
            rows += _cut_rows(made, f"B = {num_blocks}, {name}", [case.outcome for case in cut])
        rows += _storage(made, same[0])
    return rows


def _people(recipe: Recipe, images: Images, *, seed: int) -> list[tuple[str, Person]]:
    cells = [(place, num) for place in PLACES for num in NUM_RECORDS]
    # Half of the cells are mislabelled, the other half with the next seed.
    sizes = [(num, (index + seed) % 2 == 1) for index, (_, num) in enumerate(cells)]
    drawn = iter(drawn_people(images, sizes, seed=seed))
    found = []
    for place, share in PLACES.items():
        start = int(share * recipe.plan.blocks)
        wanted = range(start, start + max(2, recipe.plan.blocks // 20))
        for _ in NUM_RECORDS:
            found.append((place, named_within(recipe, next(drawn), wanted, seed=seed)))
    return found


def _cases(stage: Stage, place: str, person: Person, *, rules: Sequence[StitchRule]) -> list[Case]:
    outcomes = stage.outcomes([person], rules=rules)
    return [Case(place, rule.epsilon, outcome) for rule, outcome in zip(rules, outcomes, strict=True)]


def _cut_rows(made: Sheet, name: str, outcomes: Sequence[Outcome]) -> list[Row]:
    accepted = sum(outcome.is_accepted for outcome in outcomes) / len(outcomes)
    deficit = statistics.fmean(outcome.deficit for outcome in outcomes)
    against = f"{accepted:.2f} accepted; stitched minus exact {deficit:+.3f} points"
    return [made.median(name, [outcome.ratio for outcome in outcomes], unit="x blocks", baseline=against)]


def _storage(made: Sheet, sweep: Sweep) -> list[Row]:
    full, weights = sweep.state_bytes
    num, num_kept = sweep.num_blocks, sweep.num_kept
    against = f"`sqrt` alone {num_kept * full / MEBIBYTE:.1f} MiB"
    both = (num_kept * full + (num - num_kept) * weights) / MEBIBYTE
    return [
        made.one(f"B = {num}, storage, `all`", num * full / MEBIBYTE, unit="MiB", baseline=against),
        made.one(f"B = {num}, storage, `sqrt` + references", both, unit="MiB", baseline=against),
    ]
