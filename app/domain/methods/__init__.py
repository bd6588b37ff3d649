"""The gradient methods by name, with their settings; what they do is the worker's."""

from app.domain.methods.base import Descent, Settings
from app.domain.methods.courses import (
    EpochSettings,
    FinetuneSettings,
    GradientAscentSettings,
    L1SparseSettings,
    NeggradPlusSettings,
    NpoKlrSettings,
    SfronSettings,
    released,
)
from app.domain.methods.distilling import BadTeacherSettings, ScrubSettings, StochasticTeacherSettings
from app.domain.methods.relabelling import (
    BoundaryExpandSettings,
    BoundaryShrinkSettings,
    RandomLabelSettings,
    SalunSettings,
)

SETTINGS: dict[str, type[Settings]] = {
    "sfron": SfronSettings,
    "finetune": FinetuneSettings,
    "l1_sparse": L1SparseSettings,
    "gradient_ascent": GradientAscentSettings,
    "neggrad_plus": NeggradPlusSettings,
    "npo_klr": NpoKlrSettings,
    "random_label": RandomLabelSettings,
    "salun": SalunSettings,
    "boundary_shrink": BoundaryShrinkSettings,
    "boundary_expand": BoundaryExpandSettings,
    "bad_teacher": BadTeacherSettings,
    "stochastic_teacher": StochasticTeacherSettings,
    "scrub": ScrubSettings,
}

PRESETS: dict[str, dict[str, Settings]] = {"sfron": {"released": released()}}

__all__ = [
    "PRESETS",
    "SETTINGS",
    "BadTeacherSettings",
    "BoundaryExpandSettings",
    "BoundaryShrinkSettings",
    "Descent",
    "EpochSettings",
    "FinetuneSettings",
    "GradientAscentSettings",
    "L1SparseSettings",
    "NeggradPlusSettings",
    "NpoKlrSettings",
    "RandomLabelSettings",
    "SalunSettings",
    "ScrubSettings",
    "Settings",
    "SfronSettings",
    "StochasticTeacherSettings",
]
