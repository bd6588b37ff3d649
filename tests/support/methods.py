"""A stand-in for the interim methods to come: it changes the weights, and claims no more than that."""

import torch
from torch import Tensor

from app.db.models import files_of, version_with_manifest
from app.db.session import reading
from app.domain.status import Guarantee
from app.services.prepare import Scope
from app.services.references import put_blob
from models_store.tensors import unpack
from worker.context import JobContext
from worker.data.records import RecordTable
from worker.training.state import initial_state, pack_state
from worker.unlearners import Prediction, Unlearned
from worker.unlearners.watching import Watched


class Shift:
    """Adds so little to every weight of the version it is built on that no answer changes."""

    name = "shift"
    guarantee = Guarantee.EMPIRICAL

    def changed(self, weights: Tensor) -> Tensor:
        """What becomes of one tensor of weights."""
        return weights + 1e-6

    def predict(self, context: JobContext, scope: Scope, *, table: RecordTable) -> Prediction:
        """Say that no block will run."""
        return Prediction(resumes_after=[-1], resumes_from=[None], num_blocks=0)

    def unlearn(
        self, context: JobContext, scope: Scope, *, table: RecordTable, watched: Watched
    ) -> Unlearned:
        """Store the shifted weights of the base."""
        own = context.installation
        with reading(own.sessions) as session:
            base = version_with_manifest(session, context.claim.model_id, digest=scope.base)
            assert base is not None
            (weights_file,) = (file for file in files_of(session, base.id) if "weights" in file.name)
        tensors, _ = unpack(own.store.get(weights_file.digest))
        state = initial_state(context.recipe, shard=0, device=context.device)
        with torch.no_grad():
            state.net.load_state_dict({name: self.changed(tensor) for name, tensor in tensors.items()})
        digest = put_blob(own.sessions, pack_state(state), claim=context.claim, store=own.store)
        return Unlearned(
            constituents=[digest], resumed_after=[-1], resumed_from=[None], num_blocks=0, num_records=0,
            loop_seconds=0.0, checkpoint_seconds=0.0,
        )  # fmt: skip


class Shatter(Shift):
    """Forgets everything: the utility gate refuses what it makes."""

    name = "shatter"

    def changed(self, weights: Tensor) -> Tensor:
        """Nothing is left of them."""
        return torch.zeros_like(weights)
