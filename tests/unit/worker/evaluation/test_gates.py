"""Gates refuse by name; what gates nothing warns; the evidence states both."""

import pytest

from app.domain.errors import GateFailed
from worker.evaluation.gates import Check, evidence_of, require_gates, warnings_of

HOLDS = Check(name="lineage", holds=True, is_gate=True, power="certain", figures={"num": 1})
WARNS = Check(name="utility", holds=False, is_gate=False, power="none", problem="fell")
FAILS = Check(name="witness", holds=False, is_gate=True, power="certain", problem="differs")


def test_a_gate_that_does_not_hold_forbids_and_names_itself() -> None:
    with pytest.raises(GateFailed, match=r"^witness: differs$"):
        require_gates([HOLDS, WARNS, FAILS])


def test_what_gates_nothing_only_warns() -> None:
    require_gates([HOLDS, WARNS])
    assert warnings_of([HOLDS, WARNS, FAILS]) == ["utility: fell"]


def test_the_evidence_states_every_check_with_its_power() -> None:
    checks = evidence_of([HOLDS, FAILS])["checks"]
    assert checks == {
        "lineage": {"holds": True, "gates": True, "power": "certain", "figures": {"num": 1}},
        "witness": {"holds": False, "gates": True, "power": "certain", "problem": "differs", "figures": {}},
    }
