"""When a course stops: at what the net says of unseen inputs, given the forgotten records' labels."""

import pytest
import torch
from torch import Tensor, nn

from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.stopping import LooksUnseen, looks_unseen

# Two groups of inputs on a line, of labels 0 and 1; unseen ones lie beside them.
UNSEEN = TensorRecords(torch.tensor([[-1.1], [-1.0], [-0.9], [0.9], [1.0], [1.1]]), torch.empty(0))


class Saying(nn.Module):
    """Answers the share of label 1 for each input, looked up by its place."""

    def __init__(self, shares: dict[float, float]) -> None:
        super().__init__()
        self.shares = shares

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        share_B = torch.tensor([self.shares[round(float(x), 3)] for x in inputs])
        return torch.stack([1 - share_B, share_B], dim=1).log()


LIKE_THEM = {-1.1: 0.1, -1.0: 0.1, -0.9: 0.1, 0.9: 0.9, 1.0: 0.9, 1.1: 0.9}


def test_somebody_ordinary_is_forgotten_at_the_confidence_of_people_alike() -> None:
    rule = LooksUnseen(TensorRecords(torch.tensor([[0.95]]), torch.tensor([1])), UNSEEN)
    assert not rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.99}))
    assert rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.9}))
    assert rule.seen == [(pytest.approx(0.99), pytest.approx(0.9)), (pytest.approx(0.9), pytest.approx(0.9))]


def test_a_wrong_label_is_forgotten_only_when_it_is_as_unlikely_as_among_people_alike() -> None:
    rule = LooksUnseen(TensorRecords(torch.tensor([[0.95]]), torch.tensor([0])), UNSEEN)
    assert not rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.5}))
    assert rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.9}))


def test_records_are_judged_together() -> None:
    forget = TensorRecords(torch.tensor([[0.95], [-0.95]]), torch.tensor([1, 0]))
    rule = LooksUnseen(forget, UNSEEN)
    # One is forgotten too much, the other too little: their mean confidence is that of people alike.
    assert rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.81, -0.95: 0.01}))
    assert not rule.is_reached(Saying({**LIKE_THEM, 0.95: 0.95, -0.95: 0.01}))


def group(num: int, *, known: int) -> tuple[TensorRecords, dict[float, float]]:
    """Return records of label 1 among people of label 0, and answers of a net that still knows some."""
    places = [round(-1.2 - n / 1000, 3) for n in range(num)]
    shares = {place: 0.9 if n < known else 0.05 for n, place in enumerate(places)}
    return TensorRecords(torch.tensor(places).unsqueeze(1), torch.ones(num, dtype=torch.int64)), shares


@pytest.mark.parametrize(("num", "known", "is_reached"), [(300, 0, True), (300, 1, True), (90, 1, False)])
def test_one_who_is_still_known_is_not_hidden_by_the_mean_of_few(
    num: int, known: int, is_reached: bool
) -> None:
    forget, shares = group(num, known=known)
    assert LooksUnseen(forget, UNSEEN).is_reached(Saying({**LIKE_THEM, **shares})) is is_reached


def test_one_of_whom_most_alike_are_answered_may_be_answered_too() -> None:
    near = {**LIKE_THEM, 0.9: 0.4}
    rule = LooksUnseen(TensorRecords(torch.tensor([[0.95]]), torch.tensor([1])), UNSEEN)
    assert rule.is_reached(Saying({**near, 0.95: 0.6}))


def test_without_unseen_records_there_is_no_rule() -> None:
    forget, nobody = TensorRecords(torch.tensor([[0.95]]), torch.tensor([1])), torch.empty(0)
    assert looks_unseen({Side.FORGET: forget}) is None
    assert looks_unseen({Side.FORGET: forget, Side.HELD_OUT: TensorRecords(nobody, nobody)}) is None
    assert looks_unseen({Side.FORGET: forget, Side.HELD_OUT: UNSEEN}) is not None
