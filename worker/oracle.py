"""The oracle: training from initialisation, in its own process, over data that never had the records.

Run as ``python -m worker.oracle FOLDER`` over a copy that ``worker.auditing`` made. It plans by itself from
recipe, plan key and the records' own refs, and knows no checkpoint code, no database and no HMAC key.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

from worker.data.copies import INDEX_FILE, LAYOUT_FILE, PLAN_KEY_FILE, RECIPE_FILE, RECORDS_FILE, OracleIndex
from worker.data.data_files import DataFile, Layout
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.determinism import choose_device, environment, fix_kernels
from worker.processes import die_by_signal
from worker.training.inputs import transform_of
from worker.training.loop import run_positions
from worker.training.plan import place, tokens_from_bytes
from worker.training.recipe import Recipe, recipe_from_json
from worker.training.state import initial_state, weights, weights_digest

RESIDENT_BYTES = 4 << 30


def train_copy(folder: Path) -> dict[str, str]:
    """Train on a copy and return ``weights_digest`` and ``environment`` (the fingerprint's digest)."""
    recipe = recipe_from_json(json.loads((folder / RECIPE_FILE).read_text()))
    plan_key = bytes.fromhex((folder / PLAN_KEY_FILE).read_text())
    layout = Layout.from_json(json.loads((folder / LAYOUT_FILE).read_text()))
    index = OracleIndex.load(folder / INDEX_FILE)
    fix_kernels(recipe.execution.threads)
    device = choose_device()
    table = _planned(index, recipe, plan_key=plan_key)
    loader = Loader(
        DataFile(layout=layout, rows=np.fromfile(folder / RECORDS_FILE, dtype=layout.row_dtype)),
        table.chosen(np.flatnonzero(~index.is_poisoned_N)),
        transform=transform_of(recipe, shape=layout.shape),
        device=device,
        resident_bytes=RESIDENT_BYTES,
        poisoned=np.flatnonzero(index.is_poisoned_N).tolist(),
    )
    constituents = []
    for shard in range(recipe.plan.shards):
        state = initial_state(recipe, shard=shard, device=device)
        positions = range(recipe.plan.num_positions)
        run_positions(state, positions, recipe=recipe, loader=loader, shard=shard, device=device)
        constituents.append(weights(state.net))
    return {"weights_digest": weights_digest(constituents), "environment": environment(device).digest()}


def _planned(index: OracleIndex, recipe: Recipe, *, plan_key: bytes) -> RecordTable:
    refs = [bytes(ref) for ref in index.record_ref_N]
    subjects = [bytes(ref) for ref in index.subject_ref_N]
    traits = zip(index.spread_N.tolist(), index.likelihood_N.tolist(), strict=True)
    placed = [
        place(
            plan_key,
            recipe.plan,
            record_ref=ref,
            subject_ref=subject,
            spread=spread,
            likelihood=None if math.isnan(likelihood) else likelihood,
        )
        for ref, subject, (spread, likelihood) in zip(refs, subjects, traits, strict=True)
    ]
    num = len(refs)
    return RecordTable(
        row_N=np.arange(num, dtype=np.int64),
        record_refs=refs,
        salts=[b""] * num,
        content_digests=[bytes(digest) for digest in index.content_digest_N],
        is_held_out_N=np.zeros(num, dtype=np.bool_),
        shard_N=np.array([p.shard for p in placed], dtype=np.int64),
        block_N=np.array([p.block for p in placed], dtype=np.int64),
        token_N2=tokens_from_bytes(b"".join(p.token for p in placed)),
    )


if __name__ == "__main__":
    die_by_signal()
    print(json.dumps(train_copy(Path(sys.argv[1]))))  # noqa: T201 - the answer of this process
