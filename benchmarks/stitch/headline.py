"""Many deletions under one rule that was fixed beforehand, each beside its exact replay and doing nothing."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from app.domain.policy import CheckpointPlacement, Policy, StitchRule
from benchmarks.results import Row, Sheet
from benchmarks.stitch.figures import Arrays, Outputs, between, clustered_interval, distance, outputs_of
from benchmarks.stitch.images import Images, Person, drawn_people, mislabelled
from benchmarks.stitch.training import Deletion, Stitched, Training, seeded
from worker.training.inputs import transform_of
from worker.training.placement import kept_positions, resume_before
from worker.training.recipe import PlanPart, Recipe
from worker.unlearners.decay import Ruling

SQRT = Policy(checkpoints=CheckpointPlacement.SQRT)
PAPER_RATIO = {"mnist": 66.7, "cifar": 33.3}
SIZES = tuple((size, is_wrong) for size in (1, 5) for is_wrong in (False, True)) * 2 + ((1, True), (5, False))


@dataclass(frozen=True)
class Outcome:
    """One deletion under one rule. Accuracies in percent, losses and divergences in nats.

    ``blocks_sqrt`` counts the gap to the nearest checkpoint under `sqrt`; ``distance`` is the stitched net's
    L2 distance to the exact one over that of doing nothing. Disagreement (percent) and divergence are with
    the exact net, on test images and on the forgotten ones, each beside the same of doing nothing.
    """

    seed: int
    num_records: int
    is_mislabelled: bool
    first_block: int
    num_blocks: int
    stopped_after: int | None
    why: str
    num_points: int
    blocks_run: int
    blocks_sqrt: int
    r_squared: float | None
    r_squared_rest: float | None
    tail_sum: float
    distance: float | None
    accuracy_original: float
    accuracy_exact: float
    accuracy_stitched: float
    loss_original: float
    loss_exact: float
    loss_stitched: float
    disagreement: float
    disagreement_nothing: float
    divergence: float
    divergence_nothing: float
    disagreement_own: float
    disagreement_own_nothing: float
    divergence_own: float
    divergence_own_nothing: float

    @property
    def is_accepted(self) -> bool:
        """Whether a stitch was made."""
        return self.stopped_after is not None

    @property
    def ratio(self) -> float:
        """B / blocks run; a deletion without a stitch counts as the exact replay that it was."""
        return self.num_blocks / self.blocks_run

    @property
    def replayed(self) -> int:
        """Blocks that exact replay of the same deletion runs, from the state before the same block."""
        return self.num_blocks - self.first_block

    @property
    def deficit(self) -> float:
        """Accuracy of the stitched net minus the exact one's, in points."""
        return self.accuracy_stitched - self.accuracy_exact

    @property
    def deficit_nothing(self) -> float:
        """The same of doing nothing."""
        return self.accuracy_original - self.accuracy_exact


@dataclass(frozen=True)
class Seed:
    """The deletions from one training, and what it predicts on the test images before any of them."""

    outcomes: list[Outcome]
    original: Arrays


@dataclass(frozen=True)
class Stage:
    """A training that ended, with what its deletions are judged on."""

    training: Training
    original: nn.Module
    test: tuple[Tensor, Tensor]
    seed: int

    def outcomes(self, people: Sequence[Person], *, rules: Sequence[StitchRule]) -> list[Outcome]:
        """Forget people together; return an outcome a rule."""
        deletion = self.training.delete(people, rules=rules)
        return [self._outcome(people, deletion, self._gated(deletion, each)) for each in deletion.stitched]

    @property
    def original_outputs(self) -> Outputs:
        """What the training predicts on the test images."""
        return outputs_of(self.original, *self._inputs(self.test))

    def _gated(self, deletion: Deletion, stitched: Stitched) -> Stitched:
        """Return what the service would publish: beyond ``max_drop`` its gate refuses, and replay follows."""
        before = self.original_outputs.accuracy
        after = outputs_of(stitched.net, *self._inputs(self.test)).accuracy
        if stitched.stopped_after is None or before - after <= 100 * SQRT.max_drop:
            return stitched
        refused = Ruling(stops=False, why="the gate refused it")
        return Stitched(stitched.rule, None, refused, deletion.exact)

    def _outcome(self, people: Sequence[Person], deletion: Deletion, stitched: Stitched) -> Outcome:
        training, num_blocks = self.training, self.training.num_blocks
        own = _own(training.images, training.people, people, seed=self.seed)
        nets = (self.original, deletion.exact, stitched.net)
        original, exact, made = (outputs_of(net, *self._inputs(self.test)) for net in nets)
        gone, gone_exact, gone_made = (outputs_of(net, *self._inputs(own)) for net in nets)
        blocks_run = deletion.blocks_run(stitched, num_blocks=num_blocks)
        nothing = distance(self.original, deletion.exact)
        decay, stopped = stitched.ruling.decay, stitched.stopped_after
        return Outcome(
            seed=self.seed,
            num_records=sum(len(person.rows) for person in people),
            is_mislabelled=people[0].is_mislabelled,
            first_block=deletion.first_block,
            num_blocks=num_blocks,
            stopped_after=stopped,
            why=stitched.ruling.why,
            num_points=0 if stopped is None else stopped - deletion.last_block + 1,
            blocks_run=blocks_run,
            blocks_sqrt=blocks_run + sqrt_gap(deletion.first_block, plan=training.recipe.plan),
            r_squared=None if decay is None else decay.r_squared,
            r_squared_rest=None if decay is None else decay.r_squared_rest,
            tail_sum=deletion.tail(stitched),
            distance=distance(stitched.net, deletion.exact) / nothing if nothing else None,
            accuracy_original=original.accuracy,
            accuracy_exact=exact.accuracy,
            accuracy_stitched=made.accuracy,
            loss_original=gone.loss,
            loss_exact=gone_exact.loss,
            loss_stitched=gone_made.loss,
            disagreement=made.disagreement(exact),
            disagreement_nothing=original.disagreement(exact),
            divergence=made.divergence_from(exact),
            divergence_nothing=original.divergence_from(exact),
            disagreement_own=gone_made.disagreement(gone_exact),
            disagreement_own_nothing=gone.disagreement(gone_exact),
            divergence_own=gone_made.divergence_from(gone_exact),
            divergence_own_nothing=gone.divergence_from(gone_exact),
        )

    def _inputs(self, raw: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        transform = transform_of(self.training.recipe, shape=self.training.images.shape)
        return transform(raw[0].to(self.training.device)), raw[1]


def stage_of(recipe: Recipe, images: Images, people: Sequence[Person], *, seed: int) -> Stage:
    """Train a recipe with a seed of its own and keep every state."""
    training = Training(seeded(recipe, seed), images, people, seed=seed)
    original = training.run()
    test = torch.from_numpy(images.test_features), torch.from_numpy(images.test_labels)
    return Stage(training, original, test, seed)


def one_seed(recipe: Recipe, images: Images, rule: StitchRule, seed: int) -> Seed:
    """Return ten deletions from one training: subjects of 1 and 5 records, half of them mislabelled."""
    people = drawn_people(images, SIZES, seed=seed)
    stage = stage_of(recipe, images, people, seed=seed)
    outcomes = [stage.outcomes([person], rules=[rule])[0] for person in people]
    return Seed(outcomes, stage.original_outputs.to_arrays())


def sqrt_gap(first_block: int, *, plan: PlanPart) -> int:
    """Return how many blocks lie between the nearest full checkpoint under `sqrt` and a touched block."""
    kept = kept_positions(SQRT, plan=plan)
    return first_block - 1 - resume_before(first_block, kept)


def rows_of(made: Sheet, seeds: Sequence[Seed], rule: StitchRule, *, data: str) -> list[Row]:
    """Return the table: all deletions, rejected ones as exact replays, and what accuracy cannot tell."""
    outcomes = [outcome for seed in seeds for outcome in seed.outcomes]
    originals = [Outputs.from_arrays(seed.original) for seed in seeds]
    floor = floor_rows(made, originals, against=f"test, pairs of {len(seeds)} exact ones")
    return [*_outcome_rows(made, outcomes, rule, data=data), *floor]


def floor_rows(made: Sheet, outputs: Sequence[Outputs], *, against: str) -> list[Row]:
    """Return how far exact trainings of other seeds lie apart: nothing can be told below that."""
    disagreements, divergences = between(outputs)
    return [
        made.median("disagreement of seeds", disagreements, unit="%", baseline=against),
        made.median("KL of seeds", divergences, unit="nats", baseline=against),
    ]


def _outcome_rows(made: Sheet, outcomes: Sequence[Outcome], rule: StitchRule, *, data: str) -> list[Row]:
    ratios = [each.ratio for each in outcomes]
    wanted, num_blocks = PAPER_RATIO[data], outcomes[0].num_blocks
    accepted = [each for each in outcomes if each.is_accepted]
    share = sum(ratio >= wanted for ratio in ratios) / len(ratios)
    mean_blocks = statistics.fmean(each.blocks_run for each in outcomes)
    at_figure = [each for each in outcomes if each.ratio >= wanted]
    rows = [
        made.median("B / blocks run", ratios, unit="x", baseline=f"all; the paper's figure {wanted}"),
        made.one("share at the paper's figure", share, unit="share", baseline="target >= .70"),
        made.one(
            "of these, exact replays", _share(at_figure, lambda o: not o.is_accepted), unit="share",
            baseline="of a person in the last blocks",
        ),
        *(
            made.one(
                f"share at the paper's figure, {name}", _share(group, lambda o: o.ratio >= wanted),
                unit="share", baseline=f"of {len(group)}",
            )
            for name, group in _groups(outcomes).items()
            if name in ("ordinary", "mislabelled")
        ),
        made.one("B / mean blocks run", num_blocks / mean_blocks, unit="x", baseline="all deletions"),
        made.median(
            "exact replay's blocks / blocks run", [o.replayed / o.blocks_run for o in outcomes], unit="x",
            baseline="all; from the checkpoint before the same block",
        ),
        made.one(
            "the same of their means", statistics.fmean(o.replayed for o in outcomes) / mean_blocks,
            unit="x", baseline="all deletions",
        ),
        made.median(
            "B / blocks run, `sqrt`", [num_blocks / each.blocks_sqrt for each in outcomes], unit="x",
            baseline="gap to the checkpoint counted",
        ),
        made.one(
            "fits accepted", len(accepted) / len(outcomes), unit="share", baseline=f"of {len(outcomes)}"
        ),
        made.one(
            "stops at the fewest points", _share(accepted, lambda o: o.num_points == rule.min_points),
            unit="share", baseline=f"{rule.min_points} points",
        ),
        made.median(
            "test accuracy of training", [*{o.seed: o.accuracy_original for o in outcomes}.values()],
            unit="%", baseline="98.2 wanted on MNIST",
        ),
    ]  # fmt: skip
    for name, group in _groups(outcomes).items():
        rows.append(_deficit(made, f"stitched minus exact, {name}", group, lambda each: each.deficit))
        rows.append(_deficit(made, f"nothing minus exact, {name}", group, lambda each: each.deficit_nothing))
    return [*rows, *_context(made, accepted)]


_LOSSES: dict[str, Callable[[Outcome], float]] = {
    "original": lambda o: o.loss_original,
    "stitched": lambda o: o.loss_stitched,
    "exact": lambda o: o.loss_exact,
}


def _context(made: Sheet, accepted: Sequence[Outcome]) -> list[Row]:
    """Return what is never proof of forgetting, each figure beside the same of doing nothing."""
    if not accepted:
        return []
    figures: dict[str, tuple[Callable[[Outcome], float], str, str]] = {
        "disagreement with exact, stitched": (lambda o: o.disagreement, "%", "test, accepted"),
        "disagreement with exact, doing nothing": (lambda o: o.disagreement_nothing, "%", "test, accepted"),
        "KL to exact, stitched": (lambda o: o.divergence, "nats", "test, accepted"),
        "KL to exact, doing nothing": (lambda o: o.divergence_nothing, "nats", "test, accepted"),
        "disagreement on the forgotten, stitched": (lambda o: o.disagreement_own, "%", "accepted"),
        "disagreement on the forgotten, doing nothing": (
            lambda o: o.disagreement_own_nothing,
            "%",
            "accepted",
        ),
        "KL on the forgotten, stitched": (lambda o: o.divergence_own, "nats", "accepted"),
        "KL on the forgotten, doing nothing": (lambda o: o.divergence_own_nothing, "nats", "accepted"),
        "distance to exact": (lambda o: o.distance or 0.0, "of doing nothing's", "L2, accepted"),
        "tail that was not retrained": (lambda o: o.tail_sum, "L1", "accepted"),
        "R^2": (lambda o: o.r_squared or 0.0, "", "accepted"),
        "R^2 without the first point": (lambda o: o.r_squared_rest or 0.0, "", "accepted"),
    }
    losses = [
        made.median(f"forgotten records' loss, {name}", [read(o) for o in group], unit="nats", baseline=cut)
        for cut, group in (
            ("accepted", accepted), ("mislabelled, accepted", [o for o in accepted if o.is_mislabelled]),
        )
        for name, read in _LOSSES.items()
        if group
    ]  # fmt: skip
    worse = _share(accepted, lambda o: o.divergence > o.divergence_nothing)
    rows = [
        made.median(name, [read(o) for o in accepted], unit=unit, baseline=against)
        for name, (read, unit, against) in figures.items()
    ]
    further = made.one("further in KL than doing nothing", worse, unit="share", baseline="test, accepted")
    return [*losses, *rows, further]


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the deletions whose accuracy is judged on their own."""
    groups = {
        "all": list(outcomes),
        "accepted": [o for o in outcomes if o.is_accepted],
        "1 record": [o for o in outcomes if o.num_records == 1],
        "5 records": [o for o in outcomes if o.num_records == 5],
        "ordinary": [o for o in outcomes if not o.is_mislabelled],
        "mislabelled": [o for o in outcomes if o.is_mislabelled],
        "5 mislabelled": [o for o in outcomes if o.is_mislabelled and o.num_records == 5],
    }
    return {name: group for name, group in groups.items() if group}


def _deficit(made: Sheet, name: str, group: Sequence[Outcome], read: Callable[[Outcome], float]) -> Row:
    """Return the mean difference in points; low and high are the 95 % interval of the seeds' means."""
    values = [read(each) for each in group]
    low, high = clustered_interval(values, [each.seed for each in group])
    row = made.median(name, values, unit="points", baseline="mean; 95 % interval of the seeds' means")
    mean = statistics.fmean(values)
    return replace(row, value=round(mean, 4), low=round(low, 4), high=round(high, 4))


def _share(group: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> float:
    return sum(holds(each) for each in group) / len(group) if group else 0.0


def _own(
    images: Images, everybody: Sequence[Person], people: Sequence[Person], *, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the raw images and the labels, as they were trained on, of the forgotten."""
    labels = mislabelled(images, everybody, seed=seed)
    rows = [int(row) for person in people for row in person.rows]
    return torch.from_numpy(images.features[rows]), torch.from_numpy(labels[rows])


def to_json(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Return the raw figures."""
    return [asdict(each) for each in outcomes]
