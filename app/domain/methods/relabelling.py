"""The settings of the methods that give the forgotten records other labels."""

from dataclasses import dataclass, field
from typing import Literal

from app.domain.methods.base import Descent, require_above, require_between
from app.domain.methods.courses import EpochSettings


@dataclass(frozen=True)
class RandomLabelSettings(EpochSettings):
    """Random labels for the forgotten, the retained as they are, in epochs over the retained records.

    ``exclude_true`` draws among the labels that are not the record's own, which are read for it; ``redraw``
    draws anew each time a record is met, and otherwise once. ``order`` is ``forget_first``, an epoch over
    the forgotten and then one over the retained, or ``joint``, a forget batch in each step of the retained.
    """

    epochs: int = 20
    exclude_true: bool = True
    redraw: bool = True
    order: Literal["joint", "forget_first"] = "forget_first"


@dataclass(frozen=True)
class SalunSettings(RandomLabelSettings):
    """SalUn (arXiv 2310.12508): random labels, and only the ``share`` of the weights with the largest
    absolute forget gradient moves.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above("share", self.share, 0)
        require_between("share", self.share, 0, 1)


@dataclass(frozen=True)
class BoundaryShrinkSettings(EpochSettings):
    """Boundary Shrink (arXiv 2303.11570): epochs over the forgotten, labelled across the nearest boundary.

    ``step`` is how far an input goes towards it, as a share of the range of the forgotten inputs. Nothing
    holds the retained back, so the steps are small.
    """

    step: float = 0.1
    descent: Descent = field(default_factory=lambda: Descent(learning_rate=0.001))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("step", self.step, 0, 1)


@dataclass(frozen=True)
class BoundaryExpandSettings(EpochSettings):
    """Boundary Expand (arXiv 2303.11570): epochs over the forgotten, labelled as a class that is cut off.

    Nothing holds the retained back, so the steps are small.
    """

    descent: Descent = field(default_factory=lambda: Descent(learning_rate=0.0003))
