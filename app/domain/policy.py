"""The policy of a model: what may change without changing a single bit of the training itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from app.domain.methods import SETTINGS, Settings, settings_of
from app.domain.prior import DeletionPrior
from app.domain.scheduling import DAY_SECONDS

MAX_WINDOW_SECONDS = 30 * DAY_SECONDS
# Three numbers are fitted: on fewer points than this any curve fits.
MIN_POINTS = 8


# The registry of the worker, by guarantee. What is empirical comes before an exact method, or settles where
# the policy says so in words.
EXACT_METHODS = ("replay", "retrain")
STITCH = "stitch"
EMPIRICAL_METHODS: tuple[str, ...] = (STITCH, *SETTINGS)
# What the policy of a model without a plan says where nobody says otherwise. That an empirical method may end
# its deletions is not among it: somebody has to say so.
WITHOUT_PLAN: Mapping[str, str] = {"final_method": "sfron", "when_gate_fails": "fail"}
_FOR_A_PLAN = ("checkpoints", "checkpoint_count", "prior", "witness_blocks", "references", "stitch")


class WhenGateFails(StrEnum):
    """What a settle job does when a gate refuses what its empirical method made."""

    NEXT = "next"
    FAIL = "fail"


class CheckpointPlacement(StrEnum):
    """After which blocks a full checkpoint is kept."""

    ALL = "all"
    SQRT = "sqrt"
    LOG = "log"
    PRIOR = "prior"


@dataclass(frozen=True)
class StitchRule:
    """When checkpoint stitching stops to retrain (He et al. 2021, arXiv 2105.06209).

    ``epsilon`` is how steep the fitted decay of the residual memory may still be (L1 distance of all weights,
    a block); ``min_points`` is how many blocks must have been retrained since the last touched one, and
    ``min_r_squared`` how well the fit must hold: one that does not never stops.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epsilon: float = 1.0
    min_points: int = MIN_POINTS
    min_r_squared: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be a number above 0, not {self.epsilon}")
        if self.min_points < MIN_POINTS:
            raise ValueError(f"min_points must be at least {MIN_POINTS}, not {self.min_points}")
        if not 0.0 <= self.min_r_squared <= 1.0:
            raise ValueError(f"min_r_squared must lie between 0 and 1, not {self.min_r_squared}")


@dataclass(frozen=True)
class Policy:
    """Settings of one model outside its recipe's digest.

    ``checkpoint_count`` is how many checkpoints ``checkpoints = prior`` keeps before the end (None: about the
    root of the blocks), where they suit the ``prior`` of deletions best.
    ``max_drop`` is a share of accuracy (0.02 = two points); ``witness_blocks`` is how many blocks besides
    the first touched one a fresh process recomputes (0 to 3); ``final_method`` settles deletions, and
    ``interim_method`` publishes an empirical version before it. Only with ``accept_empirical`` may an
    empirical method settle; when a gate refuses its version, ``when_gate_fails`` says if the job goes on
    with the ``next`` method, exact replay, or is to ``fail``. Deletions that wait share one job: it starts
    ``batch_window_seconds`` after the first of them, with ``batch_count`` of them, or when it must to be in
    time, whichever comes first. With ``hold`` every deletion waits for an admin's approval.

    ``references`` keeps the weights after every block beside the full checkpoints: what stitching measures
    against. ``stitch`` is its rule. ``methods`` has the settings of gradient methods by name, where they are
    not the defaults.
    """

    # Unknown keys in a recipe's [policy] table are refused, not ignored (read by pydantic).
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    checkpoints: CheckpointPlacement = CheckpointPlacement.SQRT
    checkpoint_count: int | None = None
    prior: DeletionPrior = field(default_factory=DeletionPrior)
    max_drop: float = 0.02
    witness_blocks: int = 1
    final_method: str = "replay"
    interim_method: str | None = None
    accept_empirical: bool = False
    when_gate_fails: WhenGateFails = WhenGateFails.NEXT
    batch_window_seconds: float = 0.0
    batch_count: int | None = None
    hold: bool = False
    references: bool = False
    stitch: StitchRule = StitchRule()
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.checkpoint_count is not None and self.checkpoint_count < 1:
            raise ValueError(f"checkpoint_count must be at least 1, not {self.checkpoint_count}")
        if not 0.0 <= self.max_drop <= 1.0:
            raise ValueError(f"max_drop must lie between 0 and 1, not {self.max_drop}")
        if not 0 <= self.witness_blocks <= 3:
            raise ValueError(f"witness_blocks must lie between 0 and 3, not {self.witness_blocks}")
        if not 0.0 <= self.batch_window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"batch_window_seconds must be 0 to 30 days, not {self.batch_window_seconds}")
        if self.batch_count is not None and self.batch_count < 1:
            raise ValueError(f"batch_count must be at least 1, not {self.batch_count}")
        self._require_references()

    @property
    def has_references(self) -> bool:
        """Whether the weights after every block are kept, in full checkpoints or beside them."""
        return self.references or self.checkpoints is CheckpointPlacement.ALL

    @property
    def stitches(self) -> bool:
        """Whether one of its methods is stitching."""
        return STITCH in (self.interim_method, self.final_method)

    def placed(self, placement: CheckpointPlacement) -> "Policy":
        """Return the same with another placement, and with the references that stitching then needs."""
        needs_references = self.stitches and placement is not CheckpointPlacement.ALL
        return replace(self, checkpoints=placement, references=self.references or needs_references)

    def settings_of(self, method: str) -> Settings | None:
        """Return the settings with which a method runs; None for one without any.

        Raises:
            ValueError: one of them is wrong; the message begins with the field.
        """
        if method not in SETTINGS:
            return None
        try:
            return settings_of(method, self.methods.get(method, {}))
        except ValueError as error:
            raise ValueError(f"methods.{method}.{error}") from error

    def _require_references(self) -> None:
        if self.stitches and not self.has_references:
            raise ValueError("references must be true for stitching, unless checkpoints is all")

    def require_plan(self, *, num_blocks: int, num_passes: int) -> None:
        """Make sure that the settings fit a plan of so many blocks, met so many times.

        Raises:
            ValueError: one does not; the message begins with its name.
        """
        for name in ("interim_method", "final_method"):
            if num_passes > 1 and getattr(self, name) == STITCH:
                raise ValueError(f"{name}: stitching needs plan.passes = 1, not {num_passes}")
        if self.stitches and self.stitch.min_points > num_blocks - 1:
            raise ValueError(
                f"stitch.min_points: {num_blocks} blocks have {num_blocks - 1} before the last, "
                f"so {self.stitch.min_points} are never retrained in time"
            )
        if self.checkpoint_count is not None and self.checkpoint_count > num_blocks - 1:
            raise ValueError(
                f"checkpoint_count: {num_blocks} blocks have {num_blocks - 1} places before the end"
            )
        try:
            self.prior.block_weights(num_blocks)
        except ValueError as error:
            raise ValueError(f"prior.{error}") from error

    @property
    def settles_empirically(self) -> bool:
        """Whether deletions may be finished by an empirical method, without an exact version to come."""
        return self.accept_empirical and self.final_method not in EXACT_METHODS


def require_methods(policy: Policy) -> None:
    """Refuse methods that do not exist, or that may not do what the policy wants of them.

    Asked where settings come in. A policy that is stored is believed: a release may drop a method.

    Raises:
        ValueError: names the field.
    """
    for name in policy.methods:
        _require_known("methods", name, known=tuple(SETTINGS))
        policy.settings_of(name)
    _require_known("final_method", policy.final_method, known=EXACT_METHODS + EMPIRICAL_METHODS)
    if policy.final_method in EMPIRICAL_METHODS and not policy.accept_empirical:
        raise ValueError(
            f"final_method: {policy.final_method} is empirical and proves nothing; "
            "set accept_empirical = true as well if that shall do"
        )
    if policy.interim_method is None:
        return
    _require_known("interim_method", policy.interim_method, known=EMPIRICAL_METHODS)
    if policy.settles_empirically:
        raise ValueError("interim_method: comes before an exact final_method only; leave it out")


def require_no_plan(settings: Mapping[str, object]) -> None:
    """Refuse what a model without a plan cannot do: trained elsewhere, it cannot be trained again here.

    ``settings`` are those of a policy, before they become one; what they do not name has its default.

    Raises:
        ValueError: names the field.
    """
    default = asdict(Policy())
    given = {**default, **settings}
    if given["final_method"] not in SETTINGS:
        raise ValueError(
            f"final_method: {given['final_method']} needs the plan of a training here, and this model was "
            f"trained elsewhere; choose one of {', '.join(SETTINGS)}"
        )
    if given["accept_empirical"] is not True:
        raise ValueError(
            "accept_empirical: must be true, because nothing makes a model exact that was trained elsewhere: "
            "an empirical method ends its deletions, and their receipts say so"
        )
    if given["interim_method"] is not None:
        raise ValueError("interim_method: comes before an exact final_method only; leave it out")
    if given["when_gate_fails"] != WhenGateFails.FAIL:
        raise ValueError('when_gate_fails: must be "fail": without a plan there is no replay to go on with')
    for name in _FOR_A_PLAN:
        if given[name] != default[name]:
            raise ValueError(f"{name}: has no meaning for a model without a plan; leave it out")


def _require_known(setting: str, name: str, *, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{setting}: choose one of {', '.join(known) or 'none, there is no method yet'}")
