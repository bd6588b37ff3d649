"""The checks of one verification, collected: which gate, which only inform."""

from dataclasses import dataclass, field

from app.domain.errors import GateFailed
from app.domain.terms import JsonObject, JsonValue


@dataclass(frozen=True)
class Check:
    """One check: what it found, whether it holds, and whether publication depends on it.

    ``power`` says what the check would catch; a figure without power is context, never proof.
    """

    name: str
    holds: bool
    is_gate: bool
    power: str
    figures: JsonObject = field(default_factory=dict)
    problem: str = ""

    def to_json(self) -> JsonObject:
        """Return it as the evidence states it."""
        stated: JsonObject = {"holds": self.holds, "gates": self.is_gate, "power": self.power}
        if self.problem:
            stated["problem"] = self.problem
        return {**stated, "figures": dict(self.figures)}


def evidence_of(checks: list[Check]) -> JsonObject:
    """Return the evidence document of a version."""
    stated: dict[str, JsonValue] = {check.name: check.to_json() for check in checks}
    return {"format": "expunge/evidence@1", "checks": stated}


def require_gates(checks: list[Check]) -> None:
    """Refuse publication when a gate does not hold.

    Raises:
        GateFailed: names the first such gate and what it saw.
    """
    for check in checks:
        if check.is_gate and not check.holds:
            raise GateFailed(f"{check.name}: {check.problem}")


def warnings_of(checks: list[Check]) -> list[str]:
    """Return what does not hold but gates nothing."""
    return [f"{check.name}: {check.problem}" for check in checks if not check.holds and not check.is_gate]
