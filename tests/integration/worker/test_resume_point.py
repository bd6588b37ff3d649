"""Where replay resumes: the newest kept state strictly before the first block that met the person."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.session import writing
from app.db.tables import Checkpoint
from tests.support.trained import NUM_FAMILIES, NUM_LONERS, PLAN, Lab

SUBJECTS = [f"loner-{n}" for n in range(NUM_LONERS)] + [f"family-{n}" for n in range(NUM_FAMILIES)]
POSITIONS = range(PLAN["blocks"])

few_examples = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@few_examples
@given(
    people=st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=3, unique=True),
    kept=st.sets(st.sampled_from(POSITIONS)),
)
def test_it_is_the_newest_kept_position_before_the_first_touched_block(
    trained_home: Path, people: list[str], kept: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab.copied(trained_home, to=Path(folder) / "lab")
        touched = {block for name in people for block in lab.blocks[name] if block is not None}
        first = min(touched, default=len(POSITIONS))
        keep_only(lab, kept)
        predicted = lab.advance(lab.settle_claim(*people), until="unlearn").output_of("prepare")["prediction"]
        lab.close()
    expected = max((position for position in kept if position < first), default=-1)
    assert predicted["resumes_after"] == [expected]
    assert predicted["num_blocks"] == len(POSITIONS) - 1 - expected


@pytest.mark.parametrize("kept", [(), (0,), (1, 4), (0, 1, 2, 3, 4, 5)])
def test_whatever_was_kept_the_weights_are_the_same(lab: Lab, kept: tuple[int, ...]) -> None:
    person = lab.in_block(3)[0]
    keep_only(lab, set(kept))
    expected = lab.straight_digest(without=[person])
    assert lab.forget(person).weights_digest == expected


def test_a_checkpoint_whose_bytes_are_gone_is_passed_over(lab: Lab) -> None:
    person = lab.in_block(4)[0]
    lab.own.store.remove(lab.checkpoints[3].digest)
    context = lab.advance(lab.settle_claim(person), until="verify")
    assert context.output_of("unlearn")["resumed_after"] == [2]


def test_after_a_replay_the_next_one_finds_its_checkpoints(lab: Lab) -> None:
    lab.forget(lab.in_block(1)[0])
    context = lab.advance(lab.settle_claim(lab.in_block(4)[0]), until="verify")
    assert context.output_of("unlearn")["resumed_after"] == [3]


def test_only_the_kept_states_of_the_policy_remain_after_a_job(lab: Lab) -> None:
    lab.forget(lab.in_block(2)[0])
    assert [(row.position, row.role) for row in lab.checkpoints] == [
        *((position, "policy") for position in POSITIONS[:-1]),
        (POSITIONS[-1], "final"),
    ]


def keep_only(lab: Lab, positions: set[int]) -> None:
    with writing(lab.own.sessions) as session:
        session.query(Checkpoint).filter(Checkpoint.position.not_in(positions)).delete()
