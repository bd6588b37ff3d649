"""A prior of deletions: its weights in closed form, and what is refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.policy import Policy
from app.domain.prior import DeletionPrior, PriorKind

nums = st.integers(1, 400)
shares = st.floats(0.001, 0.999)


@given(nums)
def test_without_a_word_every_block_weighs_the_same(num_blocks: int) -> None:
    assert DeletionPrior().block_weights(num_blocks) == [1.0] * num_blocks


@given(num_blocks=nums, half_life=st.integers(1, 50))
def test_with_recency_a_block_weighs_twice_the_one_a_half_life_before_it(
    num_blocks: int, half_life: int
) -> None:
    prior = DeletionPrior(kind=PriorKind.RECENCY, half_life_blocks=half_life)
    weights = prior.block_weights(num_blocks)
    assert weights[-1] == 1.0
    assert weights[half_life:] == pytest.approx([2 * weight for weight in weights[:-half_life]])


@given(num_blocks=nums, deletions=st.floats(0, 1), hot=shares)
def test_a_hot_share_falls_evenly_on_the_last_blocks_and_the_rest_on_the_others(
    num_blocks: int, deletions: float, hot: float
) -> None:
    prior = DeletionPrior(kind=PriorKind.HOT_SHARE, deletion_share=deletions, block_share=hot)
    weights = prior.block_weights(num_blocks)
    assert sum(weights) == pytest.approx(1.0)
    num_hot = int(hot * num_blocks)  # those that lie behind the border as a whole
    assert weights[num_blocks - num_hot :] == pytest.approx([deletions / (hot * num_blocks)] * num_hot)
    num_cold = int((1 - hot) * num_blocks)
    assert weights[:num_cold] == pytest.approx([(1 - deletions) / ((1 - hot) * num_blocks)] * num_cold)


def test_a_border_within_a_block_is_shared() -> None:
    prior = DeletionPrior(kind=PriorKind.HOT_SHARE, deletion_share=0.8, block_share=0.5)
    assert prior.block_weights(3) == pytest.approx([0.2 / 1.5, 0.1 / 1.5 + 0.4 / 1.5, 0.8 / 1.5])


def test_a_list_of_weights_is_taken_as_it_is() -> None:
    prior = DeletionPrior(kind=PriorKind.WEIGHTS, weights=(0.0, 3.0, 0.5))
    assert prior.block_weights(3) == [0.0, 3.0, 0.5]


WRONG: dict[str, dict[str, Any]] = {
    "half_life_blocks is missing": {"kind": PriorKind.RECENCY},
    "half_life_blocks must be above 0": {"kind": PriorKind.RECENCY, "half_life_blocks": 0.0},
    "half_life_blocks must be above 0 and finite, not nan": {
        "kind": PriorKind.RECENCY, "half_life_blocks": float("nan"),
    },
    "block_share is missing": {"kind": PriorKind.HOT_SHARE, "deletion_share": 0.8},
    "deletion_share must lie": {"kind": PriorKind.HOT_SHARE, "deletion_share": 1.1, "block_share": 0.2},
    "block_share must lie": {"kind": PriorKind.HOT_SHARE, "deletion_share": 0.8, "block_share": 1.0},
    "weights is missing": {"kind": PriorKind.WEIGHTS},
    r"weights\[1\] must be 0 or more": {"kind": PriorKind.WEIGHTS, "weights": (1.0, -0.5)},
    r"weights\[0\] must be 0 or more and finite": {"kind": PriorKind.WEIGHTS, "weights": (float("inf"),)},
    "weights must not all be 0": {"kind": PriorKind.WEIGHTS, "weights": (0.0, 0.0)},
    "weights has no meaning with kind = uniform": {"weights": (1.0,)},
}  # fmt: skip


@pytest.mark.parametrize("problem", WRONG)
def test_a_wrong_prior_is_refused_with_its_setting(problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DeletionPrior(**WRONG[problem])


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_as_many_weights_as_blocks_or_none(num_blocks: int) -> None:
    policy = Policy(prior=DeletionPrior(kind=PriorKind.WEIGHTS, weights=(1.0, 2.0)))
    policy.require_plan(num_blocks=2, num_passes=1)
    with pytest.raises(ValueError, match=rf"^prior.weights: give {num_blocks}, one a block, not 2"):
        policy.require_plan(num_blocks=num_blocks, num_passes=1)


def test_there_cannot_be_more_checkpoints_than_places() -> None:
    Policy(checkpoint_count=4).require_plan(num_blocks=5, num_passes=1)
    with pytest.raises(ValueError, match=r"^checkpoint_count: 4 blocks have 3 places"):
        Policy(checkpoint_count=4).require_plan(num_blocks=4, num_passes=1)
    with pytest.raises(ValueError, match="checkpoint_count must be at least 1"):
        Policy(checkpoint_count=0)
