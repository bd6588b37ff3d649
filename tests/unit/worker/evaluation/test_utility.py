"""Accuracy gates empirical versions and informs of exact ones; the person's figures gate nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from models_store.ensemble import Ensemble
from models_store.manifest import Combine
from worker.evaluation.person import person_check
from worker.evaluation.utility import Sample, accuracy, remainder_check, utility_check

NOBODY = Sample(inputs=torch.zeros(0, 2), labels=torch.zeros(0, dtype=torch.int64))


class Says(nn.Module):
    """Answers with the inputs as logits, turned round if told so."""

    def __init__(self, *, is_wrong: bool = False) -> None:
        super().__init__()
        self.is_wrong = is_wrong

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, 2)."""
        return inputs.flip(1) if self.is_wrong else inputs


RIGHT, WRONG = Ensemble([Says()]), Ensemble([Says(is_wrong=True)])


def sample(*labels: int, confidence: float = 1.0) -> Sample:
    found = torch.tensor(labels)
    return Sample(inputs=nn.functional.one_hot(found, 2).float() * confidence, labels=found)


@pytest.mark.parametrize(("max_drop", "holds"), [(0.74, False), (0.75, True), (1.0, True)])
def test_a_drop_beyond_what_the_policy_allows_warns_and_never_gates(max_drop: float, holds: bool) -> None:
    mixed = Sample(inputs=torch.eye(2)[[0, 0, 0, 1]], labels=torch.tensor([0, 0, 0, 1]))
    worse = Says()
    worse.register_forward_hook(lambda m, i, out: torch.eye(2)[[1] * len(out)])
    check = utility_check(Ensemble([worse]), RIGHT, held_out=mixed, retained=mixed, max_drop=max_drop)
    assert (check.holds, check.is_gate) == (holds, False)
    assert check.figures["after"] == {"held_out": 0.25, "retained": 0.25}
    assert check.figures["before"] == {"held_out": 1.0, "retained": 1.0}


def test_a_drop_of_just_what_is_allowed_is_allowed() -> None:
    """In binary, 1 - 0.98 is more than 0.02."""
    one_wrong = torch.eye(2)[[0] * 49 + [1]]
    probe = Sample(inputs=one_wrong, labels=torch.tensor([0] * 49 + [1]))
    worse = Says()
    worse.register_forward_hook(lambda m, i, out: torch.eye(2)[[0] * len(out)])
    figures: list[bool] = []
    for max_drop in (0.02, 0.0199):
        # The second class is too small for the other rule.
        check = utility_check(Ensemble([worse]), RIGHT, held_out=probe, retained=NOBODY, max_drop=max_drop)
        figures.append(check.holds)
    assert figures == [True, False]


def test_the_first_version_has_nothing_to_fall_from() -> None:
    check = utility_check(RIGHT, None, held_out=sample(0, 1), retained=NOBODY, max_drop=0.0)
    assert check.holds
    assert check.figures["before"] == {"held_out": None, "retained": None}
    assert check.figures["after"] == {"held_out": 1.0, "retained": None}


@pytest.mark.parametrize(("at_first", "holds"), [(0.5, True), (0.51, True), (0.53, False)])
def test_a_version_may_not_fall_from_long_ago_either(at_first: float, holds: bool) -> None:
    """The version just before was as good as this one: only along the whole row is something lost."""
    probe = Sample(inputs=torch.eye(2)[[0, 0, 0, 0]], labels=torch.tensor([0, 1, 0, 1]))
    figures = {"held_out": at_first, "retained": None}
    check = utility_check(
        RIGHT, RIGHT, held_out=probe, retained=NOBODY, max_drop=0.02, is_gate=True, at_first=dict(figures)
    )
    assert (check.holds, check.is_gate) == (holds, True)
    assert check.figures["at_first"] == figures
    assert holds or "since the model was registered" in check.problem


def test_a_better_version_never_warns() -> None:
    probe = sample(0, 1, 1)
    check = utility_check(RIGHT, WRONG, held_out=probe, retained=probe, max_drop=0.0)
    assert check.holds


def test_the_persons_loss_and_confidence_are_in_closed_form() -> None:
    unseen = sample(0, 1, 1, confidence=0.5)
    check = person_check(RIGHT, WRONG, forgotten=sample(1, 1), unseen=unseen)
    share = math.e / (math.e + 1)
    assert check.figures["forgotten_after"] == {
        "mean_loss_nats": pytest.approx(-math.log(share), abs=1e-6),
        "mean_confidence": pytest.approx(share, abs=1e-6),
    }
    assert check.figures["forgotten_before"]["mean_confidence"] == pytest.approx(1 - share, abs=1e-6)  # type: ignore[index, call-overload]
    assert check.figures["num_unseen"] == 2  # of the same label alone
    assert not check.is_gate


def test_a_forgotten_class_is_shown_by_itself_and_only_people_are_compared_with_the_unseen() -> None:
    people, unseen = sample(1), sample(1, 1, confidence=0.5)
    alone = person_check(RIGHT, WRONG, forgotten=people, unseen=unseen, warns=True)
    both = person_check(RIGHT, WRONG, forgotten=sample(1, 0, 0), unseen=unseen, warns=True, classes={0, 7})
    assert both.figures["loss_gap_nats"] == alone.figures["loss_gap_nats"]
    assert both.figures["num_unseen"] == alone.figures["num_unseen"] == 2
    share = math.e / (math.e + 1)
    (shown,) = both.figures["classes"]  # type: ignore[misc, union-attr]
    assert (shown["label"], shown["num_records"]) == (0, 2)
    assert shown["after"]["mean_confidence"] == pytest.approx(share, abs=1e-6)
    assert shown["before"]["mean_confidence"] == pytest.approx(1 - share, abs=1e-6)
    assert "classes" not in alone.figures


def test_of_a_class_that_was_forgotten_before_neither_figures_nor_a_comparison_are_shown() -> None:
    unseen = sample(1, 1, confidence=0.5)
    alone = person_check(RIGHT, WRONG, forgotten=sample(1), unseen=unseen, warns=True)
    both = person_check(RIGHT, WRONG, forgotten=sample(1, 0), unseen=unseen, warns=True, earlier_classes={0})
    assert "classes" not in both.figures
    assert both.figures["loss_gap_nats"] == alone.figures["loss_gap_nats"]
    assert both.power == alone.power


def test_the_power_is_said_of_people_or_of_a_class_or_of_both() -> None:
    of_people, of_class = "none for so few records", "of a class: shows whether its label is still given"

    def power(*labels: int) -> str:
        return person_check(RIGHT, None, forgotten=sample(*labels), unseen=NOBODY, classes={0}).power

    assert of_people in power(1)
    assert of_class not in power(1)
    assert of_class in power(0)
    assert of_people not in power(0)
    assert of_class in power(0, 1)
    assert of_people in power(0, 1)


def test_nobody_gives_no_figures() -> None:
    check = person_check(RIGHT, None, forgotten=NOBODY, unseen=sample(0))
    assert check.figures["forgotten_after"] is None
    assert check.figures["unseen_after"] is None
    assert accuracy(RIGHT, NOBODY) is None


@pytest.mark.parametrize(("combine", "share"), [("mean", 0.75), ("vote", 0.25)])
def test_all_constituents_are_judged_together(combine: Combine, share: float) -> None:
    # One is sure and right, two doubt and are wrong: the mean follows the first, the vote the others.
    sure, doubting = Says(), Says(is_wrong=True)
    sure.register_forward_hook(lambda m, i, out: out * 9)
    version = Ensemble([sure, doubting, doubting], combine=combine)
    mixed = Sample(inputs=torch.eye(2)[[0, 0, 0, 1]], labels=torch.tensor([0, 0, 0, 0]))
    check = utility_check(version, RIGHT, held_out=mixed, retained=NOBODY, max_drop=0.0)
    assert check.figures["after"] == {"held_out": share, "retained": None}


def test_a_vote_that_nobody_gives_the_person_has_a_loss_all_the_same() -> None:
    check = person_check(
        Ensemble([Says(is_wrong=True)] * 3, combine="vote"), None, forgotten=sample(0), unseen=NOBODY
    )
    loss = -math.log(1 / (math.e + 1))
    assert check.figures["forgotten_after"] == {
        "mean_loss_nats": pytest.approx(loss, abs=1e-6),
        "mean_confidence": 0.0,
    }


@pytest.mark.parametrize(
    ("left", "problem"),
    [
        ([3], ""),
        ([0], "nobody is left: the weights are the initialisation"),
        ([3, 1], ""),
        ([3, 0, 0], "nobody is left in 2 of 3 shards (1, 2): the weights are the initialisation"),
    ],
)
def test_a_constituent_that_had_nobody_to_learn_from_is_flagged(left: list[int], problem: str) -> None:
    check = remainder_check(left)
    assert (check.holds, check.problem, check.is_gate) == (not problem, problem, False)
    assert check.figures["num_training_records"] == sum(left)


class Misses(Says):
    """Takes so many records of class 1 for class 0."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.num = num

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, 2)."""
        answers = inputs.clone()
        missed = inputs.argmax(dim=1).nonzero()[: self.num, 0]
        answers[missed] = inputs[missed].flip(1)
        return answers


@pytest.mark.parametrize(
    ("num_of_class", "num_missed", "kept"), [(10, 5, 0.5), (10, 6, 0.4), (9, 9, None), (20, 20, 0.0)]
)
def test_a_class_that_keeps_less_than_half_of_its_accuracy_has_collapsed(
    num_of_class: int, num_missed: int, kept: float | None
) -> None:
    probe = sample(*[0] * 1000, *[1] * num_of_class)
    check = utility_check(
        Ensemble([Misses(num_missed)]), RIGHT, held_out=probe, retained=NOBODY, max_drop=1.0, is_gate=True
    )
    lowest = 1.0 if kept is None else kept
    assert check.figures["lowest_class_share_kept"] == {"held_out": lowest, "retained": None}
    assert (check.holds, check.is_gate) == (lowest >= 0.5, True)


def graded(*confidences: float) -> Sample:
    """Records of class 1, of each confidence one."""
    inputs = torch.tensor([[0.0, c] for c in confidences])
    return Sample(inputs=inputs, labels=torch.ones(len(confidences), dtype=torch.int64))


@pytest.mark.parametrize(
    ("confidence", "word"), [(-9.0, "forgotten too much"), (1.0, ""), (30.0, "remembered, or easy")]
)
@pytest.mark.parametrize("warns", [False, True])
def test_a_loss_far_from_that_of_unseen_records_is_said_on_either_side(
    confidence: float, word: str, warns: bool
) -> None:
    unseen = graded(*[0.9, 1.0, 1.1] * 20)
    check = person_check(RIGHT, None, forgotten=graded(confidence), unseen=unseen, warns=warns)
    losses = torch.log1p((-unseen.inputs[:, 1].double()).exp())
    margin = max(0.05, 2 * float(losses.std()) * (1 + 1 / len(unseen)) ** 0.5)
    gap = math.log1p(math.exp(-confidence)) - float(losses.mean())
    assert check.figures["margin_nats"] == pytest.approx(margin, abs=1e-6)
    assert check.figures["loss_gap_nats"] == pytest.approx(gap, abs=1e-6)
    assert check.holds is (not warns or not word)
    assert word in check.problem or not warns
    assert not check.is_gate
