"""The gradient methods by name, with their settings; what they do is the worker's."""

from app.domain.methods.base import Descent, Settings
from app.domain.methods.constrained import LoraResidualSettings, ProjectedGradientSettings
from app.domain.methods.courses import SfronSettings, released
from app.domain.methods.edits import (
    FisherNoiseSettings,
    InfluenceFirstSettings,
    InfluenceSecondSettings,
    SsdSettings,
)

SETTINGS: dict[str, type[Settings]] = {
    "sfron": SfronSettings,
    "ssd": SsdSettings,
    "fisher_noise": FisherNoiseSettings,
    "influence_first": InfluenceFirstSettings,
    "influence_second": InfluenceSecondSettings,
    "projected_gradient": ProjectedGradientSettings,
    "lora_residual": LoraResidualSettings,
}

PRESETS: dict[str, dict[str, Settings]] = {"sfron": {"released": released()}}

__all__ = [
    "PRESETS",
    "SETTINGS",
    "Descent",
    "FisherNoiseSettings",
    "InfluenceFirstSettings",
    "InfluenceSecondSettings",
    "LoraResidualSettings",
    "ProjectedGradientSettings",
    "Settings",
    "SfronSettings",
    "SsdSettings",
]
