"""When a generator has forgotten a class: when the class's label says nothing about its images any more.

A denoiser is asked which noise images were given, the class's and others', under the class's label and under
another that is not theirs. Two things are wanted, as of a net that was trained without the class: the label
is no better than another for the class's own images, and it suits them no better than it suits the others'.
The second, because an error that rises under the label for every image hides what it still tells.

Both are asked in each band of timesteps. Most of the whole error lies where there is little noise and labels
hardly matter: it rises while the label still decides what is drawn.

It is two-sided: an error far above what another label gives is a trace as well, so the course ends there too.

Promises: draws are functions of a seed, the same at each look and under either label. Never: a sample.

Shape suffixes: N records looked at of a side, O labels that are retained, * the shape of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.unlearners.gradient.method import MethodDoesNotFit
from worker.unlearners.gradient.noise_prediction import Noised, NoisePrediction
from worker.unlearners.gradient.records import Records, Side, Sides, seed_of

NUM_BANDS, MOST_RECORDS = 5, 48
# How much better, as a share, the label may still suit the class's images than it suits others'.
TOLERANCE = 0.05
# Times the error under another label, over all noise: where training without the class ends (docs/adr/0027).
TOO_FAR = 2.0


class Band(NamedTuple):
    """Mean errors at one amount of noise: of the class's images, and of others', under two labels each."""

    own: float
    own_elsewhere: float
    others: float
    others_elsewhere: float

    @property
    def is_silent(self) -> bool:
        """Whether the label says nothing here. Products, not ratios: an error may be 0."""
        suits = self.own * self.others_elsewhere >= (1 - TOLERANCE) * self.others * self.own_elsewhere
        return self.own >= self.own_elsewhere and suits


def is_over(bands: Sequence[Band]) -> bool:
    """Whether the label says nothing in any band, or the error under it stands out over all."""
    own, elsewhere = sum(band.own for band in bands), sum(band.own_elsewhere for band in bands)
    return all(band.is_silent for band in bands) or own >= TOO_FAR * elsewhere


class _Asked(NamedTuple):
    """Images, their draws under the label in question, and the same draws under another."""

    inputs: Tensor
    under: Noised
    elsewhere: Noised


@dataclass
class LabelSaysNothing:
    """Stops when the forgotten label says nothing at any amount of noise, or when it stands out.

    ``seen`` keeps the errors of every band, from little noise to much, after each look.
    """

    loss: NoisePrediction
    sides: Sides
    seed: int
    seen: list[tuple[Band, ...]] = field(default_factory=list)
    asked: tuple[tuple[_Asked, _Asked], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        forgotten, retained = (labels_of(self.sides[side]) for side in (Side.FORGET, Side.RETAIN))
        self.asked = tuple(
            (
                self._ask(Side.FORGET, band, under=None, elsewhere=retained),
                self._ask(Side.RETAIN, band, under=forgotten, elsewhere=retained),
            )
            for band in range(NUM_BANDS)
        )

    def is_reached(self, net: nn.Module) -> bool:
        """Whether it has, for the net as it is now."""
        bands = tuple(
            Band(*(self._error(net, asked.inputs, draw) for asked in both for draw in asked[1:]))
            for both in self.asked
        )
        self.seen.append(bands)
        return is_over(bands)

    def _ask(self, side: Side, band: int, *, under: Tensor | None, elsewhere: Tensor) -> _Asked:
        """Return a band's draws of some images; ``under`` None asks under their own labels."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "stop", side.value, band))
        records = self.sides[side]
        indices_N = torch.randperm(len(records), generator=generator)[:MOST_RECORDS]
        inputs, labels_N = records.inputs(indices_N), records.targets(indices_N)
        places_N = (band + torch.rand(len(inputs), generator=generator)) / NUM_BANDS
        timesteps_N = (places_N * len(self.loss.kept_T)).long().to(inputs.device)
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        first_N = labels_N if under is None else _in_turn(labels_N, under)
        second_N = _in_turn(labels_N, elsewhere)
        return _Asked(inputs, Noised(noise, timesteps_N, first_N), Noised(noise, timesteps_N, second_N))

    def _error(self, net: nn.Module, inputs: Tensor, draw: Noised) -> float:
        with torch.no_grad():
            return float(self.loss(net, inputs, draw).double().mean())


def label_says_nothing(sides: Sides, loss: NoisePrediction, *, seed: int) -> LabelSaysNothing:
    """Return the rule for these records.

    Raises:
        MethodDoesNotFit: nothing is forgotten, fewer than two labels are retained, or a class is in part
            forgotten and in part retained: its label shall go on to help.
    """
    forgotten, retained = (labels_of(sides[side]) for side in (Side.FORGET, Side.RETAIN))
    if not len(forgotten) or len(retained) < 2:
        raise MethodDoesNotFit("stops: needs images to forget, and retained ones of at least two labels")
    both = sorted(set(forgotten.tolist()) & set(retained.tolist()))
    if both:
        raise MethodDoesNotFit(f"stops: must be false, images labelled {both[0]} are retained as well")
    return LabelSaysNothing(loss, sides, seed)


def labels_of(records: Records) -> Tensor:
    """Return the labels that occur, once each, in order."""
    found: Tensor = records.targets(torch.arange(len(records))).unique()
    return found


def _in_turn(labels_N: Tensor, offered_O: Tensor) -> Tensor:
    """Return one of the offered labels for each record, by turns, never its own."""
    turns = [offered_O[offered_O != label] for label in labels_N]
    return torch.stack([others[place % len(others)] for place, others in enumerate(turns)])
