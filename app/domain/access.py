"""Who calls, and what an API key allows. Deny by default; ``admin`` implies every other scope."""

from dataclasses import dataclass
from enum import StrEnum

from app.domain.errors import ScopeMissing
from app.domain.terms import KeyId, TenantName


class Scope(StrEnum):
    """One thing that an API key may allow."""

    DELETIONS_CREATE = "deletions:create"
    DELETIONS_READ = "deletions:read"
    DELETIONS_CANCEL = "deletions:cancel"
    RECORDS_CORRECT = "records:correct"
    VERSIONS_READ = "versions:read"
    ALIASES_WRITE = "aliases:write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """Somebody with a valid API key."""

    key_id: KeyId
    tenant: TenantName
    scopes: frozenset[Scope]

    @property
    def is_admin(self) -> bool:
        """Whether the caller sees the truth behind the coarse statuses."""
        return Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Let pass whoever has ``scope``.

        Raises:
            ScopeMissing: the key does not carry it.
        """
        if scope not in self.scopes and not self.is_admin:
            raise ScopeMissing(f"this API key lacks the scope {scope}")
