"""The checks of one verification, collected: which gate, which only inform."""

from collections.abc import Sequence
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


def evidence_of(checks: list[Check], *, refused: Sequence[JsonValue] = ()) -> JsonObject:
    """Return the evidence document of a version; ``refused`` are the attempts of the job before this one."""
    document: JsonObject = {"format": "expunge/evidence@1", "checks": _stated(checks)}
    return {**document, "refused": list(refused)} if refused else document


def require_gates(checks: list[Check]) -> None:
    """Refuse publication when a gate does not hold.

    Raises:
        GateFailed: names the first such gate and what it saw; it carries the figures of all of them.
    """
    failed = [check for check in checks if check.is_gate and not check.holds]
    if failed:
        raise GateFailed(f"{failed[0].name}: {failed[0].problem}", checks=_stated(failed))


def _stated(checks: list[Check]) -> JsonObject:
    return {check.name: check.to_json() for check in checks}


def warnings_of(checks: list[Check]) -> list[str]:
    """Return what does not hold but gates nothing."""
    return [f"{check.name}: {check.problem}" for check in checks if not check.holds and not check.is_gate]
