"""Gates refuse by name; what gates nothing warns; the evidence states both."""

import pytest

from app.domain.errors import GateFailed
from worker.evaluation.gates import Check, evidence_of, require_gates, warnings_of

HOLDS = Check(name="lineage", holds=True, is_gate=True, power="certain", figures={"num": 1})
WARNS = Check(name="utility", holds=False, is_gate=False, power="none", problem="fell")
FAILS = Check(name="witness", holds=False, is_gate=True, power="certain", problem="differs")


def test_a_gate_that_does_not_hold_forbids_and_names_itself() -> None:
    with pytest.raises(GateFailed, match=r"^witness: differs$") as refused:
        require_gates([HOLDS, WARNS, FAILS])
    assert refused.value.checks == {"witness": FAILS.to_json()}


def test_what_gates_nothing_only_warns() -> None:
    require_gates([HOLDS, WARNS])
    assert warnings_of([HOLDS, WARNS, FAILS]) == ["utility: fell"]


def test_the_evidence_states_every_check_with_its_power() -> None:
    checks = evidence_of([HOLDS, FAILS])["checks"]
    assert checks == {
        "lineage": {"holds": True, "gates": True, "power": "certain", "figures": {"num": 1}},
        "witness": {"holds": False, "gates": True, "power": "certain", "problem": "differs", "figures": {}},
    }


def test_the_evidence_states_what_was_refused_before_only_where_something_was() -> None:
    assert evidence_of([HOLDS], refused=[{"method": "shift"}])["refused"] == [{"method": "shift"}]
    assert "refused" not in evidence_of([HOLDS])
