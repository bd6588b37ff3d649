"""The error of predicted noise against closed forms, and draws that are functions of a seed and a record."""

import pytest
import torch
from torch import Tensor

from worker.unlearners.gradient.losses import Forward
from worker.unlearners.gradient.noise_prediction import Noised, NoisePrediction
from worker.unlearners.gradient.records import TensorRecords

NUM, T = 6, 20
GENERATOR = torch.Generator().manual_seed(0)
KEPT = torch.linspace(0.99, 0.01, T, dtype=torch.float64)
IMAGES = torch.randn(NUM, 2, 3, 3, generator=GENERATOR, dtype=torch.float64)
RECORDS = TensorRecords(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2]))
EVERY = torch.arange(NUM)
SEEDED = NoisePrediction(KEPT, seed=5)


def aims_of(loss: NoisePrediction, indices: Tensor = EVERY) -> Noised:
    return loss.aims(RECORDS, indices, RECORDS.inputs(indices))


def linear(slope: float) -> Forward:
    """A net that says ``slope`` times what it sees, and its label besides."""
    return lambda noised, timesteps, labels: slope * noised + labels.reshape(-1, 1, 1, 1)


def test_the_error_of_a_linear_net_is_its_closed_form() -> None:
    aims = aims_of(SEEDED)
    found = SEEDED(linear(0.3), IMAGES, aims)
    for index in range(NUM):
        kept = float(KEPT[aims.timesteps[index]])
        noised = kept**0.5 * IMAGES[index] + (1 - kept) ** 0.5 * aims.noise[index]
        off = 0.3 * noised + RECORDS.all_targets[index] - aims.noise[index]
        assert float(found[index]) == pytest.approx(float((off**2).sum()) / 18, abs=1e-10)


def test_its_gradient_with_respect_to_what_the_net_says_is_its_closed_form() -> None:
    aims = aims_of(SEEDED)
    said = torch.zeros_like(IMAGES, requires_grad=True)
    SEEDED(lambda *_: said, IMAGES, aims).sum().backward()
    assert said.grad is not None
    torch.testing.assert_close(said.grad, -2 * aims.noise / 18, rtol=0, atol=1e-10)


def test_a_net_that_says_the_noise_has_no_error() -> None:
    aims = aims_of(SEEDED)
    assert not SEEDED(lambda *_: aims.noise, IMAGES, aims).any()


def test_with_a_seed_a_record_meets_the_same_draw_whoever_is_in_its_batch() -> None:
    whole, some = aims_of(SEEDED), aims_of(SEEDED, torch.tensor([4, 1]))
    assert torch.equal(some.noise, whole.noise[[4, 1]])
    assert torch.equal(some.timesteps, whole.timesteps[[4, 1]])
    assert torch.equal(some.labels, whole.labels[[4, 1]])


def test_records_and_seeds_have_draws_of_their_own() -> None:
    first, other = aims_of(SEEDED).noise, aims_of(NoisePrediction(KEPT, seed=6)).noise
    assert len({tuple(noise.flatten().tolist()) for noise in (*first, *other)}) == 2 * NUM


def test_without_a_seed_a_draw_is_that_of_torchs_generator() -> None:
    anew = NoisePrediction(KEPT)
    torch.manual_seed(1)
    first, second = aims_of(anew), aims_of(anew)
    torch.manual_seed(1)
    again = aims_of(anew)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, second.noise)


def test_with_a_seed_torchs_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    aims_of(SEEDED)
    assert torch.equal(torch.get_rng_state(), before)


def test_timesteps_are_uniform() -> None:
    many = TensorRecords(torch.zeros(20_000, 1), torch.zeros(20_000, dtype=torch.int64))
    torch.manual_seed(0)
    drawn = NoisePrediction(KEPT).aims(many, torch.arange(20_000), many.all_inputs).timesteps
    counts_T = torch.bincount(drawn, minlength=T)
    assert len(counts_T) == T
    # Chi squared with 19 degrees of freedom: 43.8 has a chance of one in a thousand.
    assert float(((counts_T - 1_000) ** 2 / 1_000).sum()) < 43.8


def test_half_precision_answers_are_widened() -> None:
    aims = aims_of(SEEDED)
    said = aims.noise.to(torch.bfloat16)
    found = SEEDED(lambda *_: said, IMAGES, aims)
    expected = (said.float() - aims.noise).square().flatten(1).mean(1)
    assert torch.equal(found, expected)
