"""The recipe of a model that was trained elsewhere: a training recipe without plan numbers.

Promises: what a plan would say is refused by its name, since nothing here could keep it; the policy is one
under which deletions can end. Never: a plan that somebody made up afterwards.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from app.domain.policy import WITHOUT_PLAN, Policy, require_methods, require_no_plan
from app.domain.terms import JsonObject
from worker.training.recipe import (
    ModelPart,
    NetRecipe,
    Positive,
    Recipe,
    RecipeRefused,
    policy_from,
    problems_of,
    recipe_from_json,
    values_of,
)

# What the key of a plan is called in a manifest where there is no plan.
NO_PLAN_KEY = "none"
# Of a training recipe, what says in which order and at what rate records were met.
_OF_A_PLAN = ("plan", "schedule")


class RegisteredRecipe(NetRecipe):
    """What is known of a training elsewhere. ``batch_size`` and optimizer say how it was done.

    The settings of a gradient method are its own: the policy has them.
    """

    batch_size: Positive

    @field_validator("model")
    @classmethod
    def _there_is_one_constituent(cls, model: ModelPart) -> ModelPart:
        if model.combine != "mean":
            raise ValueError("combine: there is one file of weights, and nothing to combine")
        return model


def read_registered(path: Path) -> tuple[RegisteredRecipe, Policy]:
    """Return the recipe and the policy of a TOML file; the policy's own defaults are ``WITHOUT_PLAN``.

    Raises:
        RecipeRefused: the file cannot be read, has numbers of a plan, or a field is missing, unknown or
            wrong.
    """
    values = values_of(path)
    _require_no_plan(values, path=path)
    table = values.pop("policy", {})
    settings = {**WITHOUT_PLAN, **table} if isinstance(table, dict) else table
    try:
        if isinstance(settings, dict):
            require_no_plan(settings)
        recipe, policy = RegisteredRecipe.model_validate(values), policy_from(settings)
        require_methods(policy)
    except ValidationError as error:
        raise RecipeRefused(f"{path}: {problems_of(error)}") from error
    except ValueError as error:
        raise RecipeRefused(f"{path}: policy.{error}") from error
    return recipe, policy


def stored_recipe(values: JsonObject) -> NetRecipe:
    """Return a stored recipe, of a model that is trained here or that was registered."""
    return recipe_from_json(values) if "plan" in values else RegisteredRecipe.model_validate(values)


def require_plan(recipe: NetRecipe) -> Recipe:
    """Return the recipe of a model that is trained here.

    Raises:
        RecipeRefused: it was trained elsewhere.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeRefused(f"{recipe.name} was trained elsewhere: it has no plan to train or replay by")
    return recipe


def _require_no_plan(values: dict[str, Any], *, path: Path) -> None:
    """Name every number of a plan, and nothing else: the rest is looked at once they are gone."""
    named = [
        f"{part}.{key}" if key else part
        for part in _OF_A_PLAN
        if part in values
        for key in (values[part] if isinstance(values[part], dict) and values[part] else [""])
    ]
    if named:
        raise RecipeRefused(
            f"{path}: {', '.join(named)}: a model that was trained elsewhere has no plan; leave this out, "
            "and say batch_size above the first table"
        )
