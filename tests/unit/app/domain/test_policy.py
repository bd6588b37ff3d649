"""A policy: which method may do what, and in which words it must be asked for."""

from itertools import product

import pytest

from app.domain import policy as rules
from app.domain.policy import EXACT_METHODS, MIN_POINTS, CheckpointPlacement, Policy, require_methods


@pytest.fixture(autouse=True)
def _an_empirical_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "EMPIRICAL_METHODS", ("shift",))


@pytest.mark.parametrize("wrong", [{"max_drop": -0.1}, {"max_drop": 1.1}, {"witness_blocks": 4}])
def test_a_policy_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        Policy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("final", "interim", "accepts"),
    list(
        product([*EXACT_METHODS, "shift", "magic"], [None, "shift", "magic", *EXACT_METHODS], [False, True])
    ),
)
def test_a_method_may_do_what_its_guarantee_and_the_policy_allow_and_nothing_else(
    final: str, interim: str | None, accepts: bool
) -> None:
    policy = Policy(final_method=final, interim_method=interim, accept_empirical=accepts)
    if final == "magic" or (final == "shift" and not accepts):
        refused = "final_method"
    elif interim in ("magic", *EXACT_METHODS) or (interim is not None and final == "shift"):
        refused = "interim_method"
    else:
        require_methods(policy)
        assert policy.settles_empirically is (final == "shift")
        return
    with pytest.raises(ValueError, match=f"^{refused}: "):
        require_methods(policy)


def test_a_stored_policy_that_does_not_say_so_settles_nothing_empirically() -> None:
    assert not Policy(final_method="shift").settles_empirically
    with pytest.raises(ValueError, match="accept_empirical = true"):
        require_methods(Policy(final_method="shift"))


@pytest.mark.parametrize("method", ["interim_method", "final_method"])
def test_stitching_needs_references_one_pass_and_room_for_its_points(method: str) -> None:
    with pytest.raises(ValueError, match=r"^references must be true"):
        Policy(**{method: "stitch"})  # type: ignore[arg-type]
    for kept in ({"references": True}, {"checkpoints": CheckpointPlacement.ALL}):
        policy = Policy(**{method: "stitch", **kept})  # type: ignore[arg-type]
        policy.require_plan(num_blocks=MIN_POINTS + 1, num_passes=1)
        with pytest.raises(ValueError, match=rf"^{method}: stitching needs plan.passes = 1, not 2"):
            policy.require_plan(num_blocks=MIN_POINTS + 1, num_passes=2)
        with pytest.raises(ValueError, match=r"^stitch.min_points: "):
            policy.require_plan(num_blocks=MIN_POINTS, num_passes=1)
