"""When a course on a generator stops: at what a label is worth, against nets whose error is a closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from worker.unlearners.gradient.method import MethodDoesNotFit
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import Side, Sides, TensorRecords
from worker.unlearners.gradient.silent_labels import (
    NUM_BANDS,
    TOLERANCE,
    TOO_FAR,
    LabelSaysNothing,
    label_says_nothing,
)

T, GONE, FIRST, SECOND = 50, 1, 0, 2
KEPT = torch.linspace(0.99, 0.01, T, dtype=torch.float64)
BRIGHT = 100.0  # of retained images; so bright that they are told from the others through any noise

Errors = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Bands, labels, and whether images are of the forgotten class, (B,) each -> the error of each (B,)."""


def images(brightness: float, *labels: int, num: int = 12) -> TensorRecords:
    plain = torch.full((num, 1, 4, 4), brightness, dtype=torch.float64)
    return TensorRecords(plain, torch.tensor(labels).repeat(num)[:num])


SIDES = {Side.FORGET: images(0.0, GONE), Side.RETAIN: images(BRIGHT, FIRST, SECOND)}


class OffBy(nn.Module):
    """Says the noise in dark and in bright images exactly, but for errors that are chosen."""

    def __init__(self, errors: Errors) -> None:
        super().__init__()
        self.errors = errors
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, noised: Tensor, timesteps_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return (x_t - sqrt(kept) x) / sqrt(1 - kept) + sqrt(error)."""
        self.shown.append((noised, timesteps_B, labels_B))
        kept, is_dark_B = KEPT[timesteps_B].reshape(-1, 1, 1, 1), noised.flatten(1).mean(1) < BRIGHT / 30
        truth = torch.where(is_dark_B, 0.0, BRIGHT).double().reshape(-1, 1, 1, 1)
        errors_B = self.errors(timesteps_B * NUM_BANDS // T, labels_B, is_dark_B).double()
        return (noised - kept.sqrt() * truth) / (1 - kept).sqrt() + errors_B.sqrt().reshape(-1, 1, 1, 1)


def rule(sides: Sides = SIDES, *, seed: int = 3) -> LabelSaysNothing:
    return label_says_nothing(sides, NoisePrediction(KEPT), seed=seed)


def saying(own: float, own_elsewhere: float, others: float, others_elsewhere: float) -> OffBy:
    """Return a net of these errors in every band."""

    def errors(_: Tensor, labels_B: Tensor, is_gone_B: Tensor) -> Tensor:
        under_B = torch.where(is_gone_B, own, others)
        elsewhere_B = torch.where(is_gone_B, own_elsewhere, others_elsewhere)
        return torch.where(labels_B == GONE, under_B, elsewhere_B)

    return OffBy(errors)


def test_a_net_that_ignores_the_label_has_reached_it_at_once() -> None:
    ignoring = OffBy(lambda bands_B, _, is_gone_B: 0.1 + bands_B + 0.5 * is_gone_B)
    assert rule().is_reached(ignoring)


def test_a_net_that_knows_all_whatever_the_label_has_reached_it_too() -> None:
    assert rule().is_reached(OffBy(lambda bands_B, *_: torch.zeros(bands_B.shape)))


@pytest.mark.parametrize(("own", "is_reached"), [(0.0, False), (0.0399, False), (0.0401, True), (0.07, True)])
def test_the_own_label_must_be_no_better_than_another(own: float, is_reached: bool) -> None:
    assert rule().is_reached(saying(own, 0.04, 0.04, 0.04)) is is_reached


@pytest.mark.parametrize(("spare", "is_reached"), [(0.01, True), (-0.01, False)])
def test_an_error_that_rises_for_every_image_does_not_hide_what_the_label_tells(
    spare: float, is_reached: bool
) -> None:
    # Under the label everything is worse than under another, the class's images by less than others'.
    own, others = 0.06, 0.06 / (1 - TOLERANCE) - spare * 0.06
    assert rule().is_reached(saying(own, 0.04, others, 0.04)) is is_reached


@pytest.mark.parametrize("band", range(NUM_BANDS))
def test_a_label_that_helps_at_one_amount_of_noise_still_helps(band: int) -> None:
    def errors(bands_B: Tensor, labels_B: Tensor, _: Tensor) -> Tensor:
        return torch.where(labels_B == GONE, torch.where(bands_B == band, 0.1, 0.25), 0.2)

    assert not rule().is_reached(OffBy(errors))


@pytest.mark.parametrize(("times", "is_reached"), [(TOO_FAR - 0.01, False), (TOO_FAR + 0.01, True)])
def test_a_course_ends_too_where_the_error_stands_out_though_the_label_tells_something(
    times: float, is_reached: bool
) -> None:
    assert rule().is_reached(saying(times, 1.0, 2 * times, 1.0)) is is_reached


def test_it_compares_with_the_mean_of_the_labels_that_stay_and_are_not_the_images_own() -> None:
    def errors(_: Tensor, labels_B: Tensor, is_gone_B: Tensor) -> Tensor:
        of_gone, of_others = torch.tensor([0.02, 0.05, 0.06]), torch.tensor([0.3, 0.8, 0.5])
        return torch.where(is_gone_B, of_gone[labels_B], of_others[labels_B])

    looking = rule({**SIDES, Side.RETAIN: images(BRIGHT, FIRST, FIRST, FIRST, SECOND)})
    assert not looking.is_reached(OffBy(errors))
    (bands,) = looking.seen
    assert len(bands) == NUM_BANDS
    for band in bands:
        assert tuple(band) == pytest.approx((0.05, 0.04, 0.8, 0.75 * 0.5 + 0.25 * 0.3), abs=1e-6)


def test_every_look_and_either_label_meet_the_same_draws_and_every_band_its_own() -> None:
    looking, net = rule(), saying(0.1, 0.2, 0.3, 0.4)
    assert [looking.is_reached(net), looking.is_reached(net)] == [False, False]
    assert looking.seen[0] == looking.seen[1]
    num = 4 * NUM_BANDS
    for before, after in zip(net.shown[:num], net.shown[num:], strict=True):
        assert all(map(torch.equal, before, after))
    for place, (under, elsewhere) in enumerate(zip(net.shown[:num:2], net.shown[1:num:2], strict=True)):
        assert torch.equal(under[0], elsewhere[0])
        assert torch.equal(under[1], elsewhere[1])
        assert set((under[1] * NUM_BANDS // T).tolist()) == {place // 2}
        assert (set(under[2].tolist()), set(elsewhere[2].tolist())) == ({GONE}, {FIRST, SECOND})


def test_the_draws_are_those_of_the_seed_whatever_was_drawn_before() -> None:
    shown = []
    for seed, before in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(before)
        net = saying(0.1, 0.2, 0.3, 0.4)
        rule(seed=seed).is_reached(net)
        shown.append(torch.stack([noised for noised, _, _ in net.shown]))
    first, again, other = shown
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class WithBuffers(nn.Module):
    """A net of layers that keep statistics, draw, and train."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, dtype=torch.float64).eval()
        self.drop = nn.Dropout(0.5).eval()
        self.last = nn.Conv2d(1, 1, 1, dtype=torch.float64).train()

    def forward(self, noised: Tensor, *_: Tensor) -> Tensor:
        """Return as many numbers."""
        said: Tensor = self.last(self.drop(self.norm(noised)))
        return said


def test_a_look_leaves_weights_buffers_random_state_and_modes_as_they_are() -> None:
    net = WithBuffers()
    modes, drawn = [module.training for module in net.modules()], torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rule().is_reached(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [module.training for module in net.modules()] == modes


def test_a_class_that_is_retained_in_part_is_refused_by_its_label() -> None:
    with pytest.raises(MethodDoesNotFit, match=r"^stops: must be false, images labelled 1 are retained"):
        rule({**SIDES, Side.RETAIN: images(0, 0, 1, 2)})


@pytest.mark.parametrize(
    ("side", "left"), [(Side.FORGET, images(0, GONE, num=0)), (Side.RETAIN, images(0, FIRST))]
)
def test_without_images_to_forget_or_other_labels_to_compare_there_is_no_rule(
    side: Side, left: TensorRecords
) -> None:
    with pytest.raises(
        MethodDoesNotFit, match=r"^stops: needs images to forget, and retained ones of at least"
    ):
        rule({**SIDES, side: left})
