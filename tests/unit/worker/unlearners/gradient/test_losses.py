"""Gradients of every loss with respect to the logits, against closed forms."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import Point
from worker.unlearners.gradient.losses import (
    CrossEntropy,
    Divergence,
    Loss,
    NegativePreference,
    RandomLabels,
    Relabelled,
)
from worker.unlearners.gradient.records import TensorRecords

NUM, K = 6, 4
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(NUM, K, generator=GENERATOR, dtype=torch.float64) * 2
TEACHER = torch.randn(NUM, K, generator=GENERATOR, dtype=torch.float64)
LABELS, OTHERS = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 0, 3, 2, 2, 3])
# The inputs are the logits: a net that answers its inputs.
RECORDS = TensorRecords(LOGITS, LABELS)


class Saying(nn.Module):
    """Answers these logits whatever it is asked."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the teacher's logits."""
        return TEACHER


def gradient_of(loss: Loss) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    aims = loss.aims(RECORDS, torch.arange(NUM), LOGITS)
    losses_B = loss(lambda inputs: inputs, logits, aims)
    assert losses_B.shape == (NUM,)
    (found,) = torch.autograd.grad(losses_B.sum(), logits)
    return found


def one_hot(labels: Tensor) -> Tensor:
    return nn.functional.one_hot(labels, K).double()


def preferred(beta: float) -> Tensor:
    """2 r / (1 + r) (one_hot - p), r = (p(label) / q(label))^beta (arXiv 2404.05868)."""
    own_B, before_B = (x.softmax(1).gather(1, LABELS.unsqueeze(1)) for x in (LOGITS, TEACHER))
    ratio_B = (own_B / before_B) ** beta
    return 2 * ratio_B / (1 + ratio_B) * (one_hot(LABELS) - LOGITS.softmax(1))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), LOGITS.softmax(1) - one_hot(LABELS)),
        (Relabelled(OTHERS), LOGITS.softmax(1) - one_hot(OTHERS)),
        (Divergence(Saying()), LOGITS.softmax(1) - TEACHER.softmax(1)),
        (
            Divergence(Saying(), temperature=4.0),
            ((LOGITS / 4).softmax(1) - (TEACHER / 4).softmax(1)) / 4,
        ),
        (NegativePreference(Saying(), beta=0.1), preferred(0.1)),
        (NegativePreference(Saying(), beta=2.0), preferred(2.0)),
    ],
    ids=["cross_entropy", "relabelled", "divergence", "divergence_at_4", "preference", "preference_at_2"],
)
def test_the_gradient_is_the_closed_form(loss: Loss, expected: Tensor) -> None:
    torch.testing.assert_close(gradient_of(loss), expected, rtol=0, atol=1e-10)


def test_a_divergence_is_zero_at_its_teacher_and_its_mean_is_batchmean() -> None:
    loss = Divergence(Saying())
    aims = loss.aims(RECORDS, torch.arange(NUM), LOGITS)
    assert loss(lambda inputs: inputs, TEACHER, aims).abs().max() < 1e-15
    mean = loss(lambda inputs: inputs, LOGITS, aims).mean()
    expected = nn.functional.kl_div(LOGITS.log_softmax(1), TEACHER.softmax(1), reduction="batchmean")
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_a_negative_preference_begins_as_ascent_and_is_bounded() -> None:
    aims = NegativePreference(Saying(), beta=2.0).aims(RECORDS, torch.arange(NUM), LOGITS)
    assert (aims.isfinite().sum(1) == 1).all()
    labels = LABELS.unsqueeze(1)
    assert torch.equal(aims.argmax(1), LABELS)
    assert torch.equal(aims.gather(1, labels), TEACHER.log_softmax(1).gather(1, labels))

    def gradient_at(logits: Tensor) -> Tensor:
        own = logits.clone().requires_grad_()
        losses_B = NegativePreference(Saying(), beta=2.0)(lambda inputs: inputs, own, aims)
        assert losses_B.isfinite().all()
        (found,) = torch.autograd.grad(losses_B.sum(), own)
        return found

    ascent = one_hot(LABELS) - TEACHER.softmax(1)
    torch.testing.assert_close(gradient_at(TEACHER), ascent, rtol=0, atol=1e-10)
    assert gradient_at(TEACHER - 40 * one_hot(LABELS)).norm() < 1e-10
    assert gradient_at(TEACHER - 1e4 * one_hot(LABELS)).isfinite().all()


def test_a_negative_preference_with_a_small_beta_is_plain_ascent() -> None:
    ascent = -gradient_of(CrossEntropy())
    torch.testing.assert_close(
        gradient_of(NegativePreference(Saying(), beta=1e-9)), ascent, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("exclude_true", [False, True])
def test_random_labels_are_uniform_over_what_they_may_be(exclude_true: bool) -> None:
    records = TensorRecords(torch.zeros(40_000, 1), torch.arange(40_000) % K)
    loss = RandomLabels(K, exclude_true=exclude_true)
    assert loss.needs_targets == exclude_true
    torch.manual_seed(0)
    drawn = loss.aims(records, torch.arange(40_000), records.all_inputs)
    counts = nn.functional.one_hot(drawn, K).double().view(-1, K, K).mean(0)  # by own label, by drawn label
    uniform = (1 - torch.eye(K)) / (K - 1) if exclude_true else torch.full((K, K), 1 / K)
    # Four standard deviations of a share of 10 000 draws.
    torch.testing.assert_close(counts, uniform.double(), rtol=0, atol=0.019)
    assert not exclude_true or counts.diagonal().max() == 0.0


def test_random_labels_are_drawn_anew_and_are_those_of_the_generator() -> None:
    loss, everyone = RandomLabels(K), torch.arange(NUM)
    torch.manual_seed(3)
    first, second = (loss.aims(Unlabelled(), everyone, LOGITS) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(loss.aims(Unlabelled(), everyone, LOGITS), first)
    assert not torch.equal(first, second)


class Unlabelled:
    """Records whose targets must not be asked for."""

    def __len__(self) -> int:
        return NUM

    def inputs(self, indices_B: Tensor) -> Tensor:
        """Return the logits."""
        return LOGITS[indices_B]

    def targets(self, indices_B: Tensor) -> Tensor:
        """Fail: somebody looked."""
        raise AssertionError("the labels were read")


@pytest.mark.parametrize("loss", [Relabelled(OTHERS), RandomLabels(K), Divergence(Saying())])
def test_a_loss_without_targets_does_not_ask_for_them(loss: Loss) -> None:
    assert not loss.needs_targets
    loss.aims(Unlabelled(), torch.arange(NUM), LOGITS)


def test_other_labels_follow_the_inputs_to_their_device() -> None:
    aims = Relabelled(OTHERS).aims(RECORDS, torch.arange(2), torch.empty(2, K, device="meta"))
    assert aims.device.type == "meta"


def test_half_precision_logits_are_widened_before_the_loss() -> None:
    logits = torch.tensor([[20.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = CrossEntropy()(lambda inputs: inputs, logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([20.0]), rtol=1e-6, atol=0)


def test_a_net_of_its_own_dtype_keeps_it() -> None:
    net = Point(torch.zeros(K, dtype=torch.float64))
    assert CrossEntropy()(net, LOGITS, LABELS).dtype == torch.float64
