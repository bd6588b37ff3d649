"""Gradients of every loss with respect to the logits, against closed forms."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.gradient import Point
from worker.unlearners.gradient.losses import CrossEntropy, Divergence, Loss, Relabelled
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
    ],
    ids=["cross_entropy", "relabelled", "divergence", "divergence_at_4"],
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


@pytest.mark.parametrize("loss", [Relabelled(OTHERS), Divergence(Saying())])
def test_a_loss_without_targets_does_not_ask_for_them(loss: Loss) -> None:
    assert not loss.needs_targets
    loss.aims(Unlabelled(), torch.arange(NUM), LOGITS)


def test_half_precision_logits_are_widened_before_the_loss() -> None:
    logits = torch.tensor([[20.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = CrossEntropy()(lambda inputs: inputs, logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([20.0]), rtol=1e-6, atol=0)


def test_a_net_of_its_own_dtype_keeps_it() -> None:
    net = Point(torch.zeros(K, dtype=torch.float64))
    assert CrossEntropy()(net, LOGITS, LABELS).dtype == torch.float64
