"""purge: remove every artifact of the model that saw what is forgotten now."""

from app.domain.terms import JsonObject
from app.services.purge import purge as purge_artifacts
from worker.context import JobContext
from worker.steps.scope import scope_of


def purge(context: JobContext) -> JsonObject:
    """Return what was removed; a second run finds it absent, which is done already."""
    own = context.installation
    covers = scope_of(context).covers
    purged = purge_artifacts(
        own.sessions, context.claim, covers=covers, store=own.store, scratch=own.settings.scratch_folder
    )
    return purged.to_json()
