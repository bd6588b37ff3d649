"""The gradient methods by name, with their settings; what they do is the worker's."""

from app.domain.methods.base import Descent, Settings
from app.domain.methods.courses import SfronSettings, released

SETTINGS: dict[str, type[Settings]] = {"sfron": SfronSettings}

PRESETS: dict[str, dict[str, Settings]] = {"sfron": {"released": released()}}

__all__ = ["PRESETS", "SETTINGS", "Descent", "Settings", "SfronSettings"]
