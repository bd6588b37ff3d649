"""Every gradient method as the interim job of a model, up to its gates."""

from typing import Any

import pytest

from app.domain.status import JobKind
from tests.integration.worker.conftest import NewLab
from tests.support.trained import recipe_of
from worker.unlearners.gradient.methods import METHODS

SHORT = {"cycles": 2, "steps": 2, "epochs": 2, "msteps": 1, "erase_epochs": 1, "repair_steps": 2}


def short_settings(name: str) -> dict[str, Any]:
    """Return settings with which a method takes few steps."""
    known = METHODS[name].settings.__dataclass_fields__
    return {field: value for field, value in SHORT.items() if field in known}


@pytest.mark.parametrize("name", METHODS)
def test_a_job_runs_it_and_shows_what_it_met(new_lab: NewLab, name: str) -> None:
    own = {"interim_method": name, "methods": {name: short_settings(name)}}
    lab = new_lab(recipe_of("mlp", "momentum", blocks=2), **own, max_drop=1.0)
    lab.work()
    lab.world.sealed(lab.families[0])
    claim = lab.claim()
    assert claim is not None
    assert claim.kind is JobKind.INTERIM
    context = lab.advance(claim, until="verify")
    unlearned = context.output_of("unlearn")
    (shown,) = unlearned["course"]
    met = {side for side, num in shown["num_records"].items() if num}
    assert met
    assert met <= {read.side.value for read in METHODS[name].reads}
    assert unlearned["num_records"] == sum(shown["num_records"].values())
    assert isinstance(shown["warnings"], list)
    settings = context.output_of("prepare")["settings"]
    assert settings.keys() == METHODS[name].settings.__dataclass_fields__.keys()
