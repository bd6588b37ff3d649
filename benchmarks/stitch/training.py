"""One training that keeps every state in memory, and deletions from it by the service's own parts.

The loop, the plan, the residual memory, the rule and the stitch are those of the service; only the store and
the database are left out. A deletion runs to its end whatever the rules say, so that every stitch has the
exact replay of the same deletion beside it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from app.domain.policy import StitchRule
from benchmarks.stitch.images import Images, Person, mislabelled
from models_store.tensors import unpack
from worker.data.data_files import DataFile, Layout, row_digests
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.determinism import choose_device, fix_kernels
from worker.training.inputs import transform_of
from worker.training.loop import run_positions
from worker.training.plan import place, tokens_from_bytes
from worker.training.recipe import Recipe
from worker.training.state import NET_PREFIX, TrainingState, initial_state, pack_state, restore
from worker.unlearners.decay import Ruling, rule_on
from worker.unlearners.stitching import Retraining, estimate_batch_norm, fault_of, stitch

_UNMEASURED = StitchRule(min_points=10**9)


@dataclass(frozen=True)
class Stitched:
    """What one rule came to: where it stopped (None: it ran to its end, and is exact) and the net."""

    rule: StitchRule
    stopped_after: int | None
    ruling: Ruling
    net: nn.Module


@dataclass(frozen=True)
class Deletion:
    """One deletion: its first and last touched block, every residual, the exact net and each rule's."""

    first_block: int
    last_block: int
    residuals: list[float]
    exact: nn.Module
    stitched: list[Stitched]

    def blocks_run(self, stitched: Stitched, *, num_blocks: int) -> int:
        """Return how many blocks a rule's run has retrained, from the full checkpoint before the first."""
        last = num_blocks - 1 if stitched.stopped_after is None else stitched.stopped_after
        return last - self.first_block + 1

    def tail(self, stitched: Stitched) -> float:
        """Return the sum of the residuals that were not retrained: a bound of the error in L1."""
        if stitched.stopped_after is None:
            return 0.0
        return sum(self.residuals[stitched.stopped_after + 1 - self.first_block :])


class Training:
    """A recipe over images and people, on one device; ``seed`` is that of plan key and wrong labels."""

    def __init__(self, recipe: Recipe, images: Images, people: Sequence[Person], *, seed: int) -> None:
        fix_kernels(recipe.execution.threads)
        self.recipe, self.images, self.people = recipe, images, people
        self.device = choose_device()
        self._states: list[bytes] = []
        self._file, self._table = _stored(recipe, images, people, seed=seed)

    def run(self, *, keeps: bool = True, shard: int = 0) -> nn.Module:
        """Train one shard from initialisation, keeping every state unless told, and return the net."""
        state = initial_state(self.recipe, shard=shard, device=self.device)
        self._states = [pack_state(state)] if keeps else []

        def keep(_: int, state: TrainingState) -> None:
            self._states.append(pack_state(state))

        run_positions(
            state, range(self.num_blocks), recipe=self.recipe, loader=self._loader(self._table), shard=shard,
            device=self.device, after_block=keep if keeps else None,
        )  # fmt: skip
        return state.net

    @property
    def sizes_SB(self) -> npt.NDArray[np.int64]:
        """Return how many records each block of each shard holds."""
        plan = self.recipe.plan
        places_N = self._table.shard_N * plan.blocks + self._table.block_N
        return np.bincount(places_N, minlength=plan.shards * plan.blocks).reshape(plan.shards, plan.blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return self.recipe.plan.num_positions

    @property
    def state_bytes(self) -> tuple[int, int]:
        """The bytes of one full state, and of its parameters alone."""
        tensors, _ = unpack(self._states[-1])
        return len(self._states[-1]), sum(
            tensor.nbytes for name, tensor in tensors.items() if NET_PREFIX in name
        )

    def after(self, position: int) -> Mapping[str, Tensor]:
        """Return the weights of this run after a block (``References``)."""
        tensors, _ = unpack(self._states[position + 1])
        return {n.removeprefix(NET_PREFIX): t.to(self.device) for n, t in tensors.items() if NET_PREFIX in n}

    def block_of(self, person: Person) -> int:
        """Return the block of a person."""
        (block,) = {int(b) for b in self._table.block_N[np.isin(self._table.row_N, person.rows)]}
        return block

    def delete(self, people: Sequence[Person], *, rules: Sequence[StitchRule]) -> Deletion:
        """Forget people together: replay to the end, and stitch where each rule stops first."""
        touched = sorted({self.block_of(person) for person in people})
        gone = np.concatenate([person.rows for person in people])
        kept = self._table.chosen(np.flatnonzero(~np.isin(self._table.row_N, gone)))
        loader = self._loader(kept)
        state = restore(self._states[touched[0]], self.recipe, shard=0, device=self.device)
        retraining = Retraining(self, _UNMEASURED, touched)
        retraining.before_first(state.net)
        found: dict[int, Stitched] = {}

        def after_block(position: int, state: TrainingState) -> None:
            retraining.after_block(position, state.net)
            for index, rule in enumerate(rules):
                if index in found or position < touched[-1] or position == self.num_blocks - 1:
                    continue
                ruling = rule_on(retraining.points, rule)
                if ruling.stops and (net := self._stitch(state.net, position, loader)) is not None:
                    found[index] = Stitched(rule, position, ruling, net)

        run_positions(
            state, range(touched[0], self.num_blocks), recipe=self.recipe, loader=loader, shard=0,
            device=self.device, after_block=after_block,
        )  # fmt: skip
        never = Ruling(stops=False, why="ran to its end")
        return Deletion(
            first_block=touched[0], last_block=touched[-1], residuals=retraining.residuals, exact=state.net,
            stitched=[found.get(i, Stitched(rule, None, never, state.net)) for i, rule in enumerate(rules)],
        )  # fmt: skip

    def _stitch(self, net: nn.Module, position: int, loader: Loader) -> nn.Module | None:
        copy = initial_state(self.recipe, shard=0, device=self.device).net
        copy.load_state_dict(net.state_dict())
        stitch(copy, here=self.after(position), end=self.after(self.num_blocks - 1))
        blocks = [
            loader.block(0, block).inputs for block in range(max(0, self.num_blocks - 40), self.num_blocks)
        ]
        estimate_batch_norm(copy, [inputs for inputs in reversed(blocks) if len(inputs) > 1])
        return None if fault_of(copy) else copy

    def _loader(self, table: RecordTable) -> Loader:
        return Loader(
            self._file, table, transform=transform_of(self.recipe, shape=self.images.shape),
            device=self.device, resident_bytes=1 << 40,
        )  # fmt: skip


def plan_key_of(seed: int) -> bytes:
    """Return the plan key of a seed."""
    return hashlib.sha256(b"stitch" + seed.to_bytes(8, "little")).digest()


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Return a recipe with another seed."""
    return recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"seed": seed})})


def named_within(
    recipe: Recipe, person: Person, blocks: range, *, seed: int, taken: Sequence[int] = ()
) -> Person:
    """Return the person under the first name that the plan puts into one of ``blocks``, none ``taken``."""
    for number in range(10**6):
        name = f"{person.name}-{number}"
        placed = place(plan_key_of(seed), recipe.plan, record_ref=b"", subject_ref=name.encode())
        if placed.block in blocks and placed.block not in taken:
            return replace(person, name=name)
    raise AssertionError("a million names and none in these blocks")


def _stored(
    recipe: Recipe, images: Images, people: Sequence[Person], *, seed: int
) -> tuple[DataFile, RecordTable]:
    layout = Layout(images.features.shape[1:], images.features.dtype.name, images.num_classes)
    rows = np.zeros(len(images), dtype=layout.row_dtype)
    rows["features"], rows["label"] = images.features, mislabelled(images, people, seed=seed)
    owners = {int(row): person.name for person in people for row in person.rows}
    key, refs = plan_key_of(seed), [b"record-%d" % row for row in range(len(images))]
    placed = [
        place(key, recipe.plan, record_ref=ref, subject_ref=owners.get(row, f"other-{row}").encode())
        for row, ref in enumerate(refs)
    ]
    table = RecordTable(
        row_N=np.arange(len(images)), record_refs=refs, salts=refs, content_digests=row_digests(rows),
        is_held_out_N=np.zeros(len(images), dtype=np.bool_),
        shard_N=np.array([each.shard for each in placed]), block_N=np.array([each.block for each in placed]),
        token_N2=tokens_from_bytes(b"".join(each.token for each in placed)),
    )  # fmt: skip
    return DataFile(layout=layout, rows=rows), table
