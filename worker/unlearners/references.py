"""References: the weights after every block of a run, packed beside its full checkpoints.

What stitching measures a retraining against, and never a resume point: they hold no optimizer state, and
their keys are others than those that resume points are found by. Blocks with a full checkpoint need none.

Promises: a pack ends where a full or rolling checkpoint is kept, so a run that resumes there leaves no gap;
a pack counts as having seen whatever its last block had.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from app.services.checkpoint import REFERENCE, CheckpointView, find_checkpoints
from models_store.blobs import Digest
from models_store.errors import BlobMissing
from models_store.tensors import pack, unpack
from worker.context import JobContext
from worker.training.state import NET_PREFIX
from worker.unlearners.stitching import ReferenceMissing, Weights

PACK_BYTES = 256 * 2**20


def reference_key(key: str) -> str:
    """Return the key of a pack that ends where a full checkpoint would have ``key``."""
    return f"reference:{key}"


@dataclass
class ReferencePack:
    """Weights of consecutive blocks that wait to be kept together."""

    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, position: int, weights: Weights) -> None:
        """Take copies of the weights after a block."""
        self.weights[position] = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.num_bytes += sum(tensor.nbytes for tensor in self.weights[position].values())

    @property
    def is_full(self) -> bool:
        """Whether it should be kept before another block is added."""
        return self.num_bytes >= PACK_BYTES

    def taken(self) -> tuple[int, bytes]:
        """Return its last position and its bytes, and begin anew."""
        last = max(self.weights)
        tensors = {f"{p}.{name}": t for p, part in self.weights.items() for name, t in part.items()}
        data = pack(tensors, note={"format": "expunge/references@1"})
        self.weights, self.num_bytes = {}, 0
        return last, data


class StoredReferences:
    """The weights of one shard's last exact run, read from the store a pack at a time.

    ``keys`` are the keys of that run's states by position.
    """

    def __init__(self, context: JobContext, *, shard: int, keys: Sequence[str], settled: int) -> None:
        own = context.installation
        names = [*keys, *map(reference_key, keys)]
        found = find_checkpoints(
            own.sessions, context.claim.model_id, keys=names, covers=settled, store=own.store
        )
        mine = [view for view in found if view.shard == shard]
        self._store, self._device = own.store, context.device
        self._full = {view.position: view for view in mine if view.role != REFERENCE}
        self._packs = sorted((v for v in mine if v.role == REFERENCE), key=lambda view: view.position)
        self._opened: tuple[str, dict[int, dict[str, Tensor]]] | None = None

    def after(self, position: int) -> Weights:
        """Return the weights after a block, on the device of the job.

        Raises:
            ReferenceMissing: they were not kept.
        """
        full = self._full.get(position)
        weights = _weights_of(self._read(full)) if full else self._packed(position)
        if weights is None:
            raise ReferenceMissing(f"the weights after position {position} were not kept")
        return {name: tensor.to(self._device) for name, tensor in weights.items()}

    def _packed(self, position: int) -> dict[str, Tensor] | None:
        # The pack that ends next behind the position holds it, unless it is of a run that began later.
        behind = (view for view in self._packs if view.position >= position)
        return next((w for view in behind if (w := self._open(view).get(position)) is not None), None)

    def _open(self, view: CheckpointView) -> dict[int, dict[str, Tensor]]:
        if self._opened is None or self._opened[0] != view.digest:
            self._opened = view.digest, _by_position(self._read(view))
        return self._opened[1]

    def _read(self, view: CheckpointView) -> dict[str, Tensor]:
        try:
            tensors, _ = unpack(self._store.get(Digest(view.digest)))
        except BlobMissing as gone:
            raise ReferenceMissing(f"the weights up to position {view.position} were purged") from gone
        return tensors


def _weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(NET_PREFIX): t for n, t in tensors.items() if n.startswith(NET_PREFIX)}


def _by_position(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    weights: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        position, own_name = name.split(".", 1)
        weights.setdefault(int(position), {})[own_name] = tensor
    return weights
