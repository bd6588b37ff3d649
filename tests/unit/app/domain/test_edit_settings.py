"""Settings of edits and of constrained courses: what is refused, by name."""

import pytest

from app.domain.methods import (
    SETTINGS,
    FisherNoiseSettings,
    InfluenceFirstSettings,
    InfluenceSecondSettings,
    LoraResidualSettings,
    ProjectedGradientSettings,
    Settings,
    SsdSettings,
)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (SsdSettings, {"selection": 0.0}),
        (SsdSettings, {"dampening": -1.0}),
        (FisherNoiseSettings, {"strength": 0.0}),
        (FisherNoiseSettings, {"most": float("inf")}),
        (InfluenceFirstSettings, {"rate": float("nan")}),
        (InfluenceSecondSettings, {"damping": 0.0}),
        (InfluenceSecondSettings, {"steps": 0}),
        (InfluenceSecondSettings, {"tolerance": 2.0}),
        (ProjectedGradientSettings, {"energy": 1.1}),
        (ProjectedGradientSettings, {"momentum": 1.0}),
        (ProjectedGradientSettings, {"clip": 0.0}),
        (LoraResidualSettings, {"rank": 0}),
        (LoraResidualSettings, {"forget_weight": 0.0}),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: type[Settings], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must "):
        settings(**wrong)
    assert settings in SETTINGS.values()
