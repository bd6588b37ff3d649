"""Check a recipe against its dataset: block sizes, what a deletion will cost, and whether it replays.

Nothing is stored. The plan key of a model that does not exist yet is drawn for the check alone, so the
block sizes shown are those of a plan of the same kind, not of the very same plan. What needs torch runs in
fresh processes: no command imports it.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.db.records import dataset_named, training_records
from app.db.session import reading
from app.domain.policy import CheckpointPlacement, Policy
from app.domain.prior import PriorKind
from app.domain.terms import TenantName
from app.keyring import Keyring
from app.services.create_model import Place
from worker.data.data_files import Layout
from worker.data.records import RecordTable, table_from_rows
from worker.installation import Installation
from worker.processes import fresh_calls
from worker.proof import Measured, ProofRun, prove
from worker.training.placement import (
    Counts,
    expected_blocks,
    first_touched_counts,
    kept_positions,
    witness_gaps,
)
from worker.training.plan import Placed, place
from worker.training.recipe import NetRecipe, PlanPart, Recipe, RecipeRefused

RECORDS_PER_BATCH, BATCHES_PER_BLOCK = 32, 4


@dataclass(frozen=True)
class PlacementCost:
    """What one placement of checkpoints keeps, in all shards, and what one deletion then costs in blocks.

    ``num_bytes`` counts the references of the blocks between as well, where the policy keeps them or
    stitching would need them.
    ``num_blocks`` takes every subject as equally likely, ``num_blocks_by_prior`` the policy's prior.
    ``mean_gap`` and ``max_gap`` are blocks the witness runs from the resume point to the touched one.
    """

    placement: CheckpointPlacement
    num_checkpoints: int
    num_bytes: int
    num_blocks: float
    num_blocks_by_prior: float
    mean_gap: float
    max_gap: int


@dataclass(frozen=True)
class Checked:
    """What ``check`` found out. Seconds and bytes are estimates from two blocks on this machine.

    ``block_sizes`` are those of all shards, ``band_sizes`` subjects from the coldest band to the hottest.
    ``placements`` has every placement with the policy's other settings; ``expected_replay_share`` is what one
    deletion replays of a whole training under the policy's own.
    """

    num_records: int
    num_subjects: int
    block_sizes: list[int]
    band_sizes: list[int]
    placements: list[PlacementCost]
    expected_replay_share: float
    training_seconds: float
    differing_tensors: list[str] = field(default_factory=list)

    @property
    def replays(self) -> bool:
        """Whether replay is bit for bit on this machine."""
        return not self.differing_tensors


def check(installation: Installation, recipe: Recipe, policy: Policy, *, tenant: TenantName) -> Checked:
    """Check a recipe.

    Raises:
        NotFound: the dataset does not exist.
        RecipeRefused: a field does not fit the data, or a subject is too large for a block.
    """
    plan = recipe.plan
    with reading(installation.sessions) as session:
        dataset = dataset_named(session, recipe.data.dataset, tenant=tenant)
        layout = Layout.from_json(dataset.layout)
        rows = training_records(session, dataset.id)
    plan_key = installation.keyring.plan_key(f"check:{dataset.id}:{recipe.digest()}")
    require_shape(recipe, layout)
    require_enough_subjects(rows, plan)
    require_small_subjects(rows, plan)
    require_likelihood(rows, plan)
    table = _table(rows, recipe, plan_key=plan_key)
    sizes_SB = np.bincount(
        table.shard_N * plan.blocks + table.block_N, minlength=plan.shards * plan.blocks
    ).reshape(plan.shards, plan.blocks)
    run = _two_blocks(installation, recipe, layout=layout, dataset_id=dataset.id, table=table)
    with fresh_calls() as calls:
        calls.call("worker.trial:require_fitting_net", recipe, layout)
        measured: Measured = calls.call("worker.trial:measure", run, len(rows))
        differing_tensors = prove(run, calls=calls)
    refs = [row.subject_ref for row in rows]
    counts_SB = first_touched_counts(refs, table.shard_N, table.block_N, plan=plan)
    costs = placement_costs(policy, counts_SB, plan=plan, measured=measured)
    own = next(cost for cost in costs if cost.placement is policy.checkpoints)
    return Checked(
        num_records=len(rows),
        num_subjects=int(counts_SB.sum()),
        block_sizes=sizes_SB.reshape(-1).tolist(),
        band_sizes=[int(counts_SB[:, list(band)].sum()) for band in plan.bands],
        placements=costs,
        expected_replay_share=own.num_blocks / (plan.num_positions * plan.shards),
        training_seconds=measured.training_seconds,
        differing_tensors=differing_tensors,
    )


def placement_costs(
    policy: Policy, counts_SB: Counts, *, plan: PlanPart, measured: Measured
) -> list[PlacementCost]:
    """Return what each placement would cost; ``counts_SB`` are subjects by shard and first touched block."""
    weights = None if policy.prior.kind is PriorKind.UNIFORM else policy.prior.block_weights(plan.blocks)
    costs = []
    for placement in CheckpointPlacement:
        own = policy.placed(placement)
        kept = kept_positions(own, plan=plan)
        num_references = plan.num_positions - len(kept) if own.references else 0
        mean_gap, max_gap = witness_gaps(kept, counts_SB, plan=plan)
        costs.append(
            PlacementCost(
                placement=placement,
                num_checkpoints=len(kept) * plan.shards,
                num_bytes=plan.shards
                * (len(kept) * measured.state_bytes + num_references * measured.parameter_bytes),
                num_blocks=expected_blocks(kept, counts_SB, plan=plan),
                num_blocks_by_prior=expected_blocks(kept, counts_SB, plan=plan, weights=weights),
                mean_gap=mean_gap,
                max_gap=max_gap,
            )
        )
    return costs


def placer(keyring: Keyring, recipe: Recipe, model_id: str, rows: Sequence[Any]) -> Iterable[Place]:
    """Yield where the plan of a model puts each training record."""
    plan_key = keyring.plan_key(model_id)
    for row in rows:
        placed = _placed(row, recipe.plan, plan_key=plan_key)
        yield Place(row=row.row, shard=placed.shard, block=placed.block, token=placed.token)


def proposal_for(installation: Installation, path: Path, *, tenant: TenantName) -> str:
    """Return a [plan] table as TOML for the dataset that a recipe without one names.

    Raises:
        RecipeRefused: the recipe names no dataset.
        NotFound: the dataset does not exist.
    """
    name = tomllib.loads(path.read_text(encoding="utf-8")).get("data", {}).get("dataset")
    if not isinstance(name, str):
        raise RecipeRefused(f"{path}: data.dataset: Field required")
    with reading(installation.sessions) as session:
        num_records = len(training_records(session, dataset_named(session, name, tenant=tenant).id))
    plan = proposed_plan(num_records).model_dump()
    return "[plan]\n" + "\n".join(f"{field} = {value}" for field, value in plan.items())


def proposed_plan(num_records: int, *, batch_size: int = RECORDS_PER_BATCH, shards: int = 1) -> PlanPart:
    """Return plan numbers for a dataset of this size: blocks of about four batches, at least two a shard."""
    blocks = max(2, math.floor(num_records / (shards * batch_size * BATCHES_PER_BLOCK)))
    return PlanPart(
        blocks=blocks, shards=shards, epochs=2, batches_per_block=BATCHES_PER_BLOCK, batch_size=batch_size
    )


def has_plan(path: Path) -> bool:
    """Whether the TOML file of a recipe has a [plan] table."""
    try:
        return "plan" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True  # reading the recipe itself says what is wrong


def require_trained_here(path: Path) -> None:
    """Refuse the recipe of a model that was trained elsewhere, which has no plan.

    Raises:
        RecipeRefused: the TOML file has a batch size of its own.
    """
    if "batch_size" in tomllib.loads(path.read_text(encoding="utf-8")):
        raise RecipeRefused(
            f"{path}: batch_size without a [plan] is the recipe of a model that was trained elsewhere: "
            "`expunge-worker register` takes it, and there is nothing to check or to train"
        )


def require_shape(recipe: NetRecipe, layout: Layout) -> None:
    """Refuse a shape that does not hold as many numbers as a record has, or a net that it does not fit.

    Raises:
        RecipeRefused: data.shape, data.mean or data.std do not fit.
    """
    shape = recipe.data.shape or layout.shape
    if math.prod(shape) != math.prod(layout.shape):
        raise RecipeRefused(f"data.shape: {list(shape)} does not hold a record of shape {list(layout.shape)}")
    for name in ("mean", "std"):
        values = getattr(recipe.data, name)
        if len(values) not in (1, shape[0]):
            raise RecipeRefused(f"data.{name}: give one number, or {shape[0]}, not {len(values)}")


def require_small_subjects(rows: Sequence[Any], plan: PlanPart) -> None:
    """Refuse a subject that would dominate a block: deleting anybody beside it would cost too much.

    Raises:
        RecipeRefused: names the number of records, never the subject.
    """
    if not rows:
        raise RecipeRefused("data.dataset: it has no training records")
    counts = Counter(row.subject_ref for row in rows)
    owners = {row.subject_ref: row for row in rows}
    in_band = Counter(plan.band_of(row.likelihood) for row in rows)
    mean_blocks = [in_band[number] / (len(band) * plan.shards) for number, band in enumerate(plan.bands)]

    def in_mean_blocks(ref: bytes) -> float:
        owner = owners[ref]
        return counts[ref] / int(owner.spread) / mean_blocks[plan.band_of(owner.likelihood)]

    # One record always fits somewhere: blocks may be smaller than a record is whole.
    too_large = [ref for ref, count in counts.items() if count > 1 and in_mean_blocks(ref) > 2]
    if too_large:
        largest = max(too_large, key=in_mean_blocks)
        band = plan.band_of(owners[largest].likelihood)
        raise RecipeRefused(
            f"plan.{'hot_blocks' if band else 'blocks'}: a subject has {counts[largest]} records, more than "
            f"twice the mean block of {mean_blocks[band]:.1f}; use fewer blocks or give the subject a larger "
            "spread"
        )


def require_likelihood(rows: Sequence[Any], plan: PlanPart) -> None:
    """Refuse cuts over a dataset whose import had no ``likelihood`` column.

    Raises:
        RecipeRefused: every subject would lie below every cut.
    """
    if plan.hot_cuts and all(row.likelihood is None for row in rows):
        raise RecipeRefused("plan.hot_cuts: the dataset was imported without a likelihood column")


def _placed(row: Any, plan: PlanPart, *, plan_key: bytes) -> Placed:
    return place(
        plan_key,
        plan,
        record_ref=row.record_ref,
        subject_ref=row.subject_ref,
        spread=row.spread,
        likelihood=row.likelihood,
    )


def require_enough_subjects(rows: Sequence[Any], plan: PlanPart) -> None:
    """Refuse more shards than there are people: some constituents could never have anybody to learn from.

    With few more people than shards a hash may still leave one empty; the version's evidence flags it then.

    Raises:
        RecipeRefused: names both numbers.
    """
    num_subjects = len({row.subject_ref for row in rows})
    if plan.shards > num_subjects:
        raise RecipeRefused(f"plan.shards: {plan.shards} are more than the {num_subjects} subjects there are")


def _table(rows: Sequence[Any], recipe: Recipe, *, plan_key: bytes) -> RecordTable:
    table = table_from_rows(rows)
    placed = [_placed(row, recipe.plan, plan_key=plan_key) for row in rows]
    return replace(
        table,
        shard_N=np.array([p.shard for p in placed], dtype=np.int64),
        block_N=np.array([p.block for p in placed], dtype=np.int64),
        token_N2=np.frombuffer(b"".join(p.token for p in placed), dtype="<u8").reshape(-1, 2),
    )


def _two_blocks(
    installation: Installation,
    recipe: Recipe,
    *,
    layout: Layout,
    dataset_id: str,
    table: RecordTable,
) -> ProofRun:
    """Return a run over the two largest blocks of the largest shard, renumbered as the plan's first two."""
    shard = np.bincount(table.shard_N).argmax()
    largest = np.bincount(table.block_N[table.shard_N == shard], minlength=2).argsort()[-2:]
    chosen = table.chosen(np.flatnonzero((table.shard_N == shard) & np.isin(table.block_N, largest)))
    renumbered = replace(
        chosen,
        shard_N=np.zeros_like(chosen.shard_N),
        block_N=(chosen.block_N == largest.max()).astype(np.int64),
    )
    return ProofRun(
        recipe=recipe.model_copy(
            update={"plan": recipe.plan.model_copy(update={"blocks": max(2, recipe.plan.blocks)})}
        ),
        layout=layout,
        data_folder=installation.settings.data_folder,
        dataset_id=dataset_id,
        table=renumbered,
        positions=(0, 1),
    )
