"""Build a model from a recipe: import its factory, seed, call it, check what came back."""

import importlib
from typing import Any

import torch
from torch import nn

from worker.determinism import seed_everything
from worker.training.plan import init_seed
from worker.training.recipe import NetRecipe, Recipe, RecipeRefused
from worker.training.sources import source_digest


def build_net(recipe: NetRecipe, *, shard: int, device: torch.device) -> nn.Module:
    """Return the freshly initialised net of one shard, in training mode, float32.

    Raises:
        RecipeRefused: the factory cannot be imported or called, or returns no module.
    """
    factory = load_factory(recipe)
    # Without a plan nothing of the initialisation stays: any seed will do, as long as it is the same one.
    seed_everything(init_seed(recipe.plan, shard=shard) if isinstance(recipe, Recipe) else 0)
    try:
        net = factory(**recipe.model.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError) as error:
        raise RecipeRefused(f"model.arguments: {recipe.model.factory} refuses them: {error}") from error
    if not isinstance(net, nn.Module):
        raise RecipeRefused(f"model.factory: {recipe.model.factory} returned no torch.nn.Module")
    return net.to(device=device, dtype=torch.float32).train()


def load_factory(recipe: NetRecipe) -> Any:
    """Return the callable that the recipe names.

    Raises:
        RecipeRefused: its module cannot be imported or has no such callable.
    """
    module_name, name = recipe.model.factory.split(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise RecipeRefused(f"model.factory: {recipe.model.factory} cannot be imported: {error}") from error
    if not callable(factory):
        raise RecipeRefused(f"model.factory: {recipe.model.factory} is not callable")
    return factory


def factory_digest(recipe: NetRecipe) -> str:
    """Return the digest of the source that the factory is made of: other code, other bits."""
    load_factory(recipe)
    return source_digest(recipe.model.factory.split(":")[0])
