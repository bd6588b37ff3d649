"""Every gradient method as the interim job of a model, up to its gates."""

from typing import Any

import pytest

from app.domain.status import JobKind
from tests.integration.worker.conftest import NewLab
from tests.support.trained import recipe_of
from worker.unlearners.gradient.methods import METHODS

SHORT: dict[str, dict[str, Any]] = {
    "sfron": {"cycles": 2},
    "gradient_ascent": {"steps": 2},
    "influence_second": {"steps": 3},
    "projected_gradient": {"steps": 2},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_job_runs_it_and_shows_what_it_met(new_lab: NewLab, name: str) -> None:
    recipe = recipe_of("lenet5_batch_norm", "momentum", epochs=4)
    lab = new_lab(recipe, interim_method=name, methods={name: SHORT.get(name, {})}, max_drop=1.0)
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
