"""Where checkpoints stand, and what a deletion costs: compared with counting it out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.policy import CheckpointPlacement
from worker.training.placement import BEFORE_FIRST, expected_replay_share, kept_positions, resume_before

kept_lists = st.sets(st.integers(0, 40)).map(sorted)


def counted_share(kept: list[int], block_sizes: list[int], num_positions: int) -> float:
    """Enumerate every record and every block that its deletion runs again."""
    num_runs, num_records = 0, 0
    for block, size in enumerate(block_sizes):
        for _ in range(size):
            resume = max((position for position in kept if position < block), default=-1)
            num_runs += len(range(resume + 1, num_positions))
            num_records += 1
    return num_runs / (num_records * num_positions)


@given(kept=kept_lists, position=st.integers(0, 45))
def test_the_resume_point_is_the_newest_kept_one_strictly_before(kept: list[int], position: int) -> None:
    expected = max((each for each in kept if each < position), default=BEFORE_FIRST)
    assert resume_before(position, kept) == expected


@settings(max_examples=50)
@given(
    kept=kept_lists,
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=20).filter(any),
    passes=st.integers(1, 3),
)
def test_the_expected_share_is_what_counting_every_deletion_gives(
    kept: list[int], sizes: list[int], passes: int
) -> None:
    num_positions = passes * len(sizes)
    kept = [position for position in kept if position < num_positions]
    share = expected_replay_share(kept, block_sizes=sizes, num_positions=num_positions)
    assert share == pytest.approx(counted_share(kept, sizes, num_positions))


def test_root_many_checkpoints_cost_four_percent_more_than_all_of_them() -> None:
    share = {
        placement: expected_replay_share(
            kept_positions(placement, num_positions=500), block_sizes=[7] * 500, num_positions=500
        )
        for placement in CheckpointPlacement
    }
    assert share[CheckpointPlacement.ALL] * 500 == pytest.approx(250.5)
    excess = share[CheckpointPlacement.SQRT] / share[CheckpointPlacement.ALL] - 1
    assert excess == pytest.approx(0.041, abs=0.002)


@given(st.integers(1, 600))
def test_positions_are_in_order_within_the_training_and_hold_the_last(num_positions: int) -> None:
    for placement in CheckpointPlacement:
        kept = kept_positions(placement, num_positions=num_positions)
        assert kept == sorted(set(kept))
        assert kept[0] >= 0
        assert kept[-1] == num_positions - 1


def test_all_keeps_every_state_and_sqrt_about_the_root() -> None:
    assert kept_positions(CheckpointPlacement.ALL, num_positions=5) == [0, 1, 2, 3, 4]
    assert len(kept_positions(CheckpointPlacement.SQRT, num_positions=500)) == 22 + 1


def test_without_records_nothing_is_ever_replayed() -> None:
    assert expected_replay_share([], block_sizes=[0, 0], num_positions=2) == 0.0
