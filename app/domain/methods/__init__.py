"""The gradient methods by name, with their settings; what they do is the worker's."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from app.domain.methods.base import Descent, Settings, settings_from
from app.domain.methods.constrained import LoraResidualSettings, ProjectedGradientSettings
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
from app.domain.methods.edits import (
    FisherNoiseSettings,
    InfluenceFirstSettings,
    InfluenceSecondSettings,
    SsdSettings,
)
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
    "ssd": SsdSettings,
    "fisher_noise": FisherNoiseSettings,
    "influence_first": InfluenceFirstSettings,
    "influence_second": InfluenceSecondSettings,
    "projected_gradient": ProjectedGradientSettings,
    "lora_residual": LoraResidualSettings,
}

PRESETS: dict[str, dict[str, Settings]] = {"sfron": {"released": released()}}

PRESET = "preset"


def settings_of(method: str, values: Mapping[str, Any]) -> Settings:
    """Return the settings of a method from its table; ``preset`` names settings to take whole.

    Raises:
        ValueError: the method has no settings, or one of them is wrong; the message begins with the field.
    """
    if method not in SETTINGS:
        raise ValueError(f"{method}: no method with settings, choose from {', '.join(SETTINGS)}")
    if PRESET not in values:
        return settings_from(SETTINGS[method], values)
    presets = PRESETS.get(method, {})
    if not isinstance(values[PRESET], str) or values[PRESET] not in presets:
        raise ValueError(f"{PRESET}: choose one of {', '.join(presets) or 'none'}, not {values[PRESET]!r}")
    if len(values) > 1:
        raise ValueError(f"{PRESET}: stands alone, leave the other fields out")
    return presets[values[PRESET]]


def stored_settings(method: str, values: Mapping[str, Any]) -> Settings:
    """Return the settings that a job stored: every field stands in them, none takes a default of today.

    Raises:
        ValueError: a field is missing, unknown or wrong; the message begins with it.
    """
    settings = settings_of(method, values)
    for field in fields(settings):
        if field.name not in values:
            raise ValueError(f"{field.name}: missing, the settings were stored by another release")
    return settings


__all__ = [
    "PRESETS",
    "SETTINGS",
    "BadTeacherSettings",
    "BoundaryExpandSettings",
    "BoundaryShrinkSettings",
    "Descent",
    "EpochSettings",
    "FinetuneSettings",
    "FisherNoiseSettings",
    "GradientAscentSettings",
    "InfluenceFirstSettings",
    "InfluenceSecondSettings",
    "L1SparseSettings",
    "LoraResidualSettings",
    "NeggradPlusSettings",
    "NpoKlrSettings",
    "ProjectedGradientSettings",
    "RandomLabelSettings",
    "SalunSettings",
    "ScrubSettings",
    "Settings",
    "SfronSettings",
    "SsdSettings",
    "StochasticTeacherSettings",
    "settings_of",
    "stored_settings",
]
