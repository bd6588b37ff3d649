"""The settings of the methods that change the weights once."""

import math
from dataclasses import dataclass

from app.domain.methods.base import Settings, require_above, require_between


@dataclass(frozen=True)
class SsdSettings(Settings):
    """SSD (arXiv 2308.07707). A weight is dampened where its importance to the forgotten is more than
    ``selection`` (alpha) times that to all records, by the factor ``dampening`` (lambda) times the inverse
    ratio, at most 1. No ratio exceeds the inverse of the forgotten share: with the published alpha of 10
    nothing is ever dampened when a tenth is forgotten, so ours is lower. How low it must be depends on the
    net: a class of digits left a small CNN at 4, and a perceptron of one hidden layer only at 2.
    """

    selection: float = 4.0
    dampening: float = 1.0

    def __post_init__(self) -> None:
        require_above("selection", self.selection, 0)
        require_between("dampening", self.dampening, 0, math.inf)


@dataclass(frozen=True)
class FisherNoiseSettings(Settings):
    """Fisher forgetting (arXiv 1911.04933). A weight's noise has the standard deviation ``strength`` times
    the Fisher information of the retained to the power -1/4, at most ``most``, in the weight's own unit: the
    bound is ours, because a weight that nobody uses has no information at all.
    """

    strength: float = 0.01
    most: float = 0.1

    def __post_init__(self) -> None:
        require_above("strength", self.strength, 0)
        require_above("most", self.most, 0)


@dataclass(frozen=True)
class InfluenceFirstSettings(Settings):
    """First-order influence (arXiv 2108.11577). ``rate`` (tau) multiplies the *sum* of gradients that
    change, like a learning rate. Of records that are fitted fully the gradients are nearly nothing, so that
    ours is far above the published ones; how far it must go depends on the net and on the records.
    """

    rate: float = 0.3

    def __post_init__(self) -> None:
        require_above("rate", self.rate, 0)


@dataclass(frozen=True)
class InfluenceSecondSettings(Settings):
    """Second-order influence (arXiv 2108.11577). ``damping`` is added to the curvature of the *mean* loss
    over the records that remain: the weight decay of training, and more where a net is not convex.
    Conjugate gradients end after ``steps`` products, or when the residual has fallen by ``tolerance``.
    """

    damping: float = 0.01
    steps: int = 50
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        require_above("damping", self.damping, 0)
        require_between("steps", self.steps, 1, 100_000)
        require_between("tolerance", self.tolerance, 0, 1)
