"""The recipe: everything that training depends on, as one TOML file. Wrong fields are refused by name.

Promises: two recipes with equal digest train the same bits on the same data, plan key and environment.
The [policy] table is read from the same file and stands outside the digest.
"""

import bisect
import tomllib
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from app.domain.policy import Policy, require_methods
from app.domain.terms import JsonObject
from models_store.manifest import Combine, digest_json

Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_POLICY = TypeAdapter(dict[Literal["policy"], Policy])


class RecipeRefused(ValueError):
    """The recipe cannot be used; the message names the field."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelPart(_Part):
    """``factory`` is ``module:callable`` of installed code and returns an ``nn.Module``.

    ``combine`` says how the answers of several shards' constituents become one.
    """

    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    arguments: dict[str, Any] = {}
    loss: Literal["cross_entropy"] = "cross_entropy"
    # Not written where it is the default: recipes without it keep the digest that their models stand with.
    combine: Annotated[Combine, Field(exclude_if=lambda combine: combine == "mean")] = "mean"


class DataPart(_Part):
    """Which dataset, and how raw features become inputs: x = (raw * scale - mean) / std, then ``shape``.

    ``mean`` and ``std`` are one number, or one a channel (images) or feature (flat inputs). They stand here
    as numbers because anything fitted on data would remember it.
    """

    dataset: str
    shape: tuple[Positive, ...] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)

    @model_validator(mode="before")
    @classmethod
    def _one_number_is_a_tuple(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        lift = {k: [v] for k, v in values.items() if k in ("mean", "std") and isinstance(v, int | float)}
        return {**values, **lift}


class PlanPart(_Part):
    """The numbers of the plan. None is ever computed from who is present.

    ``epochs`` are passes over a block before the next one, ``passes`` over all blocks. ``batch_size`` is what
    the loss is divided by, however many records a batch holds; with fewer than ``min_present`` no step is
    taken. Each of ``shards`` has so many ``blocks`` of its own and trains one constituent (SISA, Bourtoule et
    al. 2019).

    Hot last: a subject whose likelihood of deletion reaches ``hot_cuts[j]`` (ascending) and no higher cut
    lies in the j-th of the last ranges of blocks, of ``hot_blocks[j]`` blocks; whoever reaches none, before.
    """

    blocks: Positive
    shards: Positive = 1
    epochs: Positive = 1
    passes: Positive = 1
    batches_per_block: Positive = 1
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    min_present: Positive = 1
    hot_cuts: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    hot_blocks: Annotated[tuple[Positive, ...], Field(validate_default=True)] = ()

    @field_validator("hot_cuts")
    @classmethod
    def _cuts_ascend(cls, cuts: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(cuts)):
            raise ValueError("the cuts must ascend")
        return cuts

    @field_validator("hot_blocks")
    @classmethod
    def _blocks_are_left(cls, sizes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len(sizes) != len(info.data.get("hot_cuts", sizes)):
            raise ValueError(f"give {len(info.data['hot_cuts'])}, one a cut, not {len(sizes)}")
        blocks = info.data.get("blocks")
        if sizes and blocks is not None and sum(sizes) >= blocks:
            raise ValueError(f"{sum(sizes)} of {blocks} blocks: at least one must be left below the cuts")
        return sizes

    @model_serializer(mode="wrap")
    def _without_unused_cuts(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan without cuts is stored and hashed as one was before there were any."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if self.hot_cuts or not key.startswith("hot_")}

    def band_of(self, likelihood: float | None) -> int:
        """Return how many cuts a likelihood reaches; unknown is none."""
        return 0 if likelihood is None else bisect.bisect_right(self.hot_cuts, likelihood)

    @property
    def bands(self) -> list[range]:
        """The blocks of each band, from the coldest to the hottest; one band without cuts."""
        sizes = (self.blocks - sum(self.hot_blocks), *self.hot_blocks)
        return [range(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    @property
    def num_positions(self) -> int:
        """Blocks of one shard over all passes."""
        return self.blocks * self.passes

    @property
    def num_steps(self) -> int:
        """Steps of the schedule in one shard."""
        return self.num_positions * self.epochs * self.batches_per_block


class _OptimizerPart(_Part):
    """``implementation`` chooses kernels, shapes bits and is thus part of the recipe."""

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    implementation: Literal["single", "foreach", "fused"] = "single"


class SgdPart(_OptimizerPart):
    """Stochastic gradient descent, with momentum if wanted."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SgdPart":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamwPart(_OptimizerPart):
    """AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


OptimizerPart = Annotated[SgdPart | AdamwPart, Field(discriminator="name")]


class SchedulePart(_Part):
    """Learning rate over the schedule's steps: constant, or a straight line or half a cosine down.

    ``final_share`` is the share of the rate that both come to after the last step.
    """

    name: Literal["constant", "linear", "cosine"] = "constant"
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class ExecutionPart(_Part):
    """Threads and number format; both shape bits.

    ``bfloat16`` is that of the forward pass and its gradients; weights and optimizer stay float32.
    """

    threads: Positive = 1
    dtype: Literal["float32", "bfloat16"] = "float32"


class NetRecipe(_Part):
    """What a recipe says of any model, trained here or elsewhere: its net, its inputs, how it was optimized.

    Without a plan all records are one block of one shard, met once: whoever training met, it met from the
    beginning on.
    """

    name: Name
    model: ModelPart
    data: DataPart
    optimizer: OptimizerPart
    execution: ExecutionPart = ExecutionPart()

    @property
    def num_shards(self) -> int:
        """Constituents of a version."""
        return 1

    @property
    def num_positions(self) -> int:
        """Blocks of one shard over all passes."""
        return 1

    @property
    def num_visits(self) -> int:
        """How often training meets a record."""
        return 1

    def to_json(self) -> JsonObject:
        """Return the recipe as it is stored and hashed."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, without the name of the model."""
        return digest_json({key: value for key, value in self.to_json().items() if key != "name"})


class Recipe(NetRecipe):
    """A model's name and all that its training depends on."""

    plan: PlanPart
    schedule: SchedulePart = SchedulePart()

    @model_validator(mode="after")
    def _combine_needs_shards(self) -> "Recipe":
        if self.model.combine != "mean" and self.plan.shards == 1:
            raise ValueError("model.combine: with plan.shards = 1 there is nothing to combine")
        return self

    @property
    def num_shards(self) -> int:
        """Constituents of a version."""
        return self.plan.shards

    @property
    def num_positions(self) -> int:
        """Blocks of one shard over all passes."""
        return self.plan.num_positions

    @property
    def num_visits(self) -> int:
        """How often training meets a record."""
        return self.plan.epochs * self.plan.passes


def read_recipe(path: Path) -> tuple[Recipe, Policy]:
    """Return the recipe and the policy of a TOML file.

    Raises:
        RecipeRefused: the file cannot be read, or a field is missing, unknown or wrong.
    """
    values = values_of(path)
    policy = values.pop("policy", {})
    try:
        recipe, policy = Recipe.model_validate(values), policy_from(policy)
    except ValidationError as error:
        raise RecipeRefused(f"{path}: {problems_of(error)}") from error
    try:
        require_methods(policy)
        policy.require_plan(num_blocks=recipe.plan.blocks, num_passes=recipe.plan.passes)
    except ValueError as error:
        raise RecipeRefused(f"{path}: policy.{error}") from error
    return recipe, policy


def values_of(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        RecipeRefused: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeRefused(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeRefused(f"{path}: not TOML: {error}") from error


def policy_from(table: object) -> Policy:
    """Return the policy of a [policy] table.

    Raises:
        ValidationError: a setting is unknown or wrong; its place begins with ``policy``.
    """
    return _POLICY.validate_python({"policy": table})["policy"]


def recipe_from_json(values: JsonObject) -> Recipe:
    """Return a stored recipe of a model that is trained here."""
    return Recipe.model_validate(values)


def problems_of(error: ValidationError) -> str:
    """Return every problem of a validation as ``field: what is wrong``, unknown fields first."""
    problems = error.errors(include_url=False, include_input=False)
    unknown = [f"{_field(p['loc'])}: unknown field" for p in problems if p["type"] in _UNKNOWN]
    wrong = [
        f"{_field(p['loc'])}: {p['msg'].removeprefix('Value error, ')}"
        for p in problems
        if p["type"] not in _UNKNOWN
    ]
    return "; ".join([*unknown, *wrong])


def _field(location: tuple[int | str, ...]) -> str:
    """Return a field as it stands in the file; the union's tag (sgd, adamw) does not."""
    parts = [str(part) for part in location]
    if parts[:1] == ["optimizer"] and len(parts) > 2:
        parts.pop(1)
    return ".".join(parts) or "recipe"
