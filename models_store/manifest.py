"""The manifest of a version: all that a consumer needs to load it, as canonical JSON, named by its digest.

Promises: equal manifests have equal bytes (RFC 8785); only bytes that `to_bytes` could have written are read,
so reading and writing is the identity and the digest of the bytes is the digest of the manifest; every file
name is safe to join to a directory.

Never judges what a manifest states (whether `covers` may be published is a rule of `app.domain`) and never
touches blobs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import rfc8785
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from models_store.blobs import Digest, digest_of, parse_digest
from models_store.errors import ManifestInvalid

JSON = JsonValue
FORMAT = "expunge/manifest@1"
Combine = Literal["mean", "vote"]
"""How the answers of several constituents become one: the mean of their softmax, or a majority vote."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_CONSTITUENT_NAME = re.compile(r"weights(-\d+)?\.safetensors")
_STRICT = ConfigDict(strict=True, extra="forbid")


def canonical_json(value: object) -> bytes:
    """RFC 8785 bytes of dicts, lists, tuples and scalars.

    ManifestInvalid for NaN, infinities, integers beyond 2**53 - 1, keys that are not text and other types.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # it checks the types itself, at every depth
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"not canonical JSON: {error}") from error


def digest_json(value: object) -> Digest:
    """SHA-256 of the canonical bytes."""
    return digest_of(canonical_json(value))


def constituent_names(num: int) -> list[str]:
    """Return the file names of so many constituents, in shard order; a single one has no number."""
    return ["weights.safetensors"] if num == 1 else [f"weights-{n:03d}.safetensors" for n in range(num)]


def _require_file_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError("not a plain file name")
    return name


def _require_distinct(files: "tuple[ManifestFile, ...]") -> "tuple[ManifestFile, ...]":
    if len({file.name for file in files}) != len(files):
        raise ValueError("two files have one name")
    return files


def _require_at_most_covers(settled: int, info: ValidationInfo) -> int:
    if settled > info.data.get("covers", settled):
        raise ValueError("greater than covers")
    return settled


def _require_given(combine: object) -> object:
    # Absent says that there is none: null would be a second way to write the same.
    if combine is None:
        raise ValueError("leave it out where there is none")
    return combine


_DigestText = Annotated[Digest, AfterValidator(parse_digest)]
_Count = Annotated[int, Field(ge=0)]
_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ManifestFile:
    """One file of a version: the name under which it is served, and its blob."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Annotated[str, AfterValidator(_require_file_name)]
    digest: _DigestText
    size: _Count  # bytes


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a version is. The mappings are to be left alone once it is made.

    Checked when it becomes bytes and when it is read; a value in memory is what its maker says it is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    files: Annotated[tuple[ManifestFile, ...], AfterValidator(_require_distinct)]
    model: _Text
    recipe_digest: _DigestText
    parent: _DigestText | None  # the manifest of the version that this one started from
    job: _Text
    guarantee: _Text
    method: _Text
    evidence: _DigestText
    environment: Mapping[str, JSON]
    covers: _Count
    settled: Annotated[_Count, AfterValidator(_require_at_most_covers)]
    weights_digest: _DigestText  # of all constituents, in order
    plan_key_id: _Text
    retained_digest: _DigestText
    code_digest: _DigestText
    factory: _Text
    factory_arguments: Mapping[str, JSON]
    input_schema: Mapping[str, JSON]
    label_schema: Mapping[str, JSON]
    combine: Annotated[Combine | None, BeforeValidator(_require_given)] = None  # None: one constituent
    # Of the method, where it has any.
    settings: Annotated[Mapping[str, JSON] | None, BeforeValidator(_require_given)] = None

    @property
    def constituents(self) -> tuple[ManifestFile, ...]:
        """The files that hold weights, in shard order."""
        return tuple(file for file in self.files if _CONSTITUENT_NAME.fullmatch(file.name))

    @property
    def digest(self) -> Digest:
        """The name of the version: SHA-256 of `to_bytes()`."""
        return digest_of(self.to_bytes())

    def to_json(self) -> dict[str, JSON]:
        """The same content as a JSON object, for a database column or an answer."""
        document: dict[str, JSON] = json.loads(self.to_bytes())
        return document

    def to_bytes(self) -> bytes:
        """Canonical JSON; ManifestInvalid rather than bytes that `from_bytes` would refuse."""
        data = _written(self)
        _read(data)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read strictly: ManifestInvalid names the field that is unknown, missing or wrong."""
        return _read(data)


_SCHEMA = TypeAdapter(Manifest)
# So that versions without them keep the digests that they stand with.
_LEFT_OUT_WHEN_NONE = ("combine", "settings")


def _written(manifest: Manifest) -> bytes:
    document = {"format": FORMAT, **asdict(manifest)}
    for name in _LEFT_OUT_WHEN_NONE:
        if document[name] is None:
            del document[name]
    return canonical_json(document)


def _read(data: bytes) -> Manifest:
    document = _json_object(data)
    found = document.pop("format", None)
    if found != FORMAT:
        raise ManifestInvalid(f"format: {found!r:.80} is not {FORMAT!r}")
    try:
        # As JSON, since pydantic's strict mode takes an array for a tuple there and nowhere else.
        manifest = _SCHEMA.validate_json(canonical_json(document))
    except ValidationError as error:
        raise ManifestInvalid(_first_complaint(error)) from error
    # Spaces, key order, doubled keys, 1.0 for 1: one manifest must not have two digests.
    if _written(manifest) != data:
        raise ManifestInvalid("the bytes are not the canonical form of what they say")
    return manifest


def _json_object(data: bytes) -> dict[str, object]:
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("not a JSON object")
    return document


def _first_complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}"
