"""Settings of methods: what is refused, by name, and what a job stored."""

from dataclasses import asdict

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
    stored_settings,
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


@pytest.mark.parametrize("method", SETTINGS)
def test_what_a_job_stored_comes_back_whole_or_is_refused(method: str) -> None:
    stored = asdict(SETTINGS[method]())
    assert stored_settings(method, stored) == SETTINGS[method]()
    for name in stored:
        with pytest.raises(ValueError, match=rf"^{name}: missing"):
            stored_settings(method, {key: value for key, value in stored.items() if key != name})
