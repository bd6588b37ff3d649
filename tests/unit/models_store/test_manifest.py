"""What a manifest promises: one form of bytes, read strictly, with complaints that name the field."""

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields, replace
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_store.blobs import Digest, digest_of
from models_store.errors import ManifestInvalid
from models_store.manifest import (
    JSON,
    Combine,
    Manifest,
    ManifestFile,
    canonical_json,
    constituent_names,
    digest_json,
)

MANIFEST = Manifest(
    files=(
        ManifestFile("weights.safetensors", digest_of(b"w"), 246_824),
        ManifestFile("preview.json", digest_of(b"p"), 0),
    ),
    model="digits",
    recipe_digest=digest_of(b"recipe"),
    parent=None,
    job="42",
    guarantee="exact",
    method="block-restart",
    evidence=digest_of(b"evidence"),
    environment={"torch": "2.13", "deterministic": True, "devices": ["cpu"]},
    covers=7,
    settled=7,
    weights_digest=digest_of(b"weights"),
    plan_key_id="key-1",
    retained_digest=digest_of(b"retained"),
    code_digest=digest_of(b"code"),
    factory="worker.training.nets:lenet",
    factory_arguments={"num_classes": 10, "dropout": 0.5},
    input_schema={"shape": [1, 28, 28], "dtype": "float32"},
    label_schema={"names": ["a", "b"]},
)

scalars = (
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(-1e15, 1e15)
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def altered(**changes: JSON) -> bytes:
    return canonical_json(json.loads(MANIFEST.to_bytes()) | changes)


def test_the_bytes_are_pinned() -> None:
    """A change here means a new FORMAT: every version published so far is named by these bytes."""
    assert MANIFEST.digest == "f086aaf86d4feeeceab0a94eaa16870053efe2c430b7ad238ef4715c91113800"
    assert MANIFEST.to_bytes().startswith(b'{"code_digest":"')
    assert b'"format":"expunge/manifest@1"' in MANIFEST.to_bytes()


@settings(max_examples=25)
@given(mapping=st.dictionaries(st.text(), json_values), covers=st.integers(0, 2**53 - 1))
def test_reading_undoes_writing_and_keeps_the_digest(mapping: dict[str, JSON], covers: int) -> None:
    manifest = replace(MANIFEST, environment=mapping, covers=covers, settled=0, parent=MANIFEST.digest)
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data) == manifest
    assert Manifest.from_bytes(data).to_bytes() == data
    assert manifest.digest == digest_of(data)


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_several_constituents_say_how_they_are_combined_and_a_single_one_says_nothing(
    combine: Combine,
) -> None:
    several = replace(MANIFEST, combine=combine)
    assert json.loads(several.to_bytes()) == {**json.loads(MANIFEST.to_bytes()), "combine": combine}
    assert Manifest.from_bytes(several.to_bytes()) == several
    assert "combine" not in MANIFEST.to_json()


@pytest.mark.parametrize("combine", [None, "median", "MEAN"])
def test_another_rule_than_we_know_is_refused_by_name(combine: JSON) -> None:
    with pytest.raises(ManifestInvalid, match=r"^combine: "):
        Manifest.from_bytes(altered(combine=combine))


@pytest.mark.parametrize("num", [1, 2, 1002])
def test_constituents_are_found_in_shard_order(num: int) -> None:
    names = constituent_names(num)
    others = ["evidence.json", "my-weights.safetensors", "weights.json", "weights-x.safetensors"]
    files = tuple(ManifestFile(name, digest_of(b""), 0) for name in [*names, *others])
    assert [file.name for file in replace(MANIFEST, files=files).constituents] == names
    assert len(set(names)) == num


@pytest.mark.parametrize("name", [f.name for f in fields(Manifest) if f.default is MISSING])
def test_a_missing_field_is_named(name: str) -> None:
    document = json.loads(MANIFEST.to_bytes())
    del document[name]
    with pytest.raises(ManifestInvalid, match=f"^{name}: "):
        Manifest.from_bytes(canonical_json(document))


@pytest.mark.parametrize("name", [field.name for field in fields(Manifest)])
def test_a_wrong_type_is_named(name: str) -> None:
    for wrong in (True, 1.5, "", None if name != "parent" else 7):
        with pytest.raises(ManifestInvalid, match=f"^{name}: "):
            Manifest.from_bytes(altered(**{name: wrong}))


def test_an_unknown_field_is_named_at_every_level() -> None:
    with pytest.raises(ManifestInvalid, match=r"^colour: "):
        Manifest.from_bytes(altered(colour="red"))
    file: JSON = {"name": "w", "digest": digest_of(b""), "size": 0, "colour": "red"}
    with pytest.raises(ManifestInvalid, match=r"^files\.0\.colour: "):
        Manifest.from_bytes(altered(files=[file]))


@pytest.mark.parametrize("found", [None, "expunge/manifest@2", 1, ["expunge/manifest@1"]])
def test_another_format_is_refused(found: JSON) -> None:
    with pytest.raises(ManifestInvalid, match=r"^format: "):
        Manifest.from_bytes(altered(format=found))
    without = json.loads(MANIFEST.to_bytes())
    del without["format"]
    with pytest.raises(ManifestInvalid, match=r"^format: "):
        Manifest.from_bytes(canonical_json(without))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../w", "a/b", "/w", "a\\b", "w\0", "w\n", ".w", "ä", "w" * 201]
)
def test_a_file_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    manifest = replace(MANIFEST, files=(ManifestFile(name, digest_of(b""), 0),))
    with pytest.raises(ManifestInvalid, match=r"^files\.0\.name: "):
        manifest.to_bytes()


def test_two_files_with_one_name_are_refused() -> None:
    with pytest.raises(ManifestInvalid, match=r"^files: .*one name"):
        replace(MANIFEST, files=MANIFEST.files + MANIFEST.files[:1]).to_bytes()


@pytest.mark.parametrize(
    "name", [f.name for f in fields(Manifest) if "digest" in f.name] + ["parent", "evidence"]
)
def test_a_malformed_digest_is_named(name: str) -> None:
    changes: dict[str, Any] = {name: Digest("A" * 64)}
    with pytest.raises(ManifestInvalid, match=f"^{name}: .*SHA-256"):
        replace(MANIFEST, **changes).to_bytes()


def test_numbers_that_no_version_can_have_are_refused() -> None:
    for name, number in [("covers", -1), ("settled", 8), ("settled", -1)]:
        with pytest.raises(ManifestInvalid, match=f"^{name}: "):
            Manifest.from_bytes(altered(**{name: number}))
    with pytest.raises(ManifestInvalid, match=r"^files\.0\.size: "):
        replace(MANIFEST, files=(ManifestFile("w", digest_of(b""), -1),)).to_bytes()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2**53, 1e20])
def test_a_number_that_would_not_come_back_is_refused_when_written(number: float) -> None:
    with pytest.raises(ManifestInvalid):
        replace(MANIFEST, factory_arguments={"rate": {"deep": [number]}}).to_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b'"covers":7', b'"covers": 7'),
        lambda data: data.replace(b'"covers":7', b'"covers":7,"covers":7'),
        lambda data: data.replace(b'"dropout":0.5', b'"dropout":5e-1'),
        lambda data: data.replace(b'"dropout":0.5', b'"dropout":NaN'),
        lambda data: data.replace(b"digits", b"\\u0064igits"),
        lambda data: data[:-1],
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: b"[" * 100_000,
        lambda data: b"[]",
        lambda data: b"",
    ],
)
def test_one_manifest_has_one_form_of_bytes(spoil: Callable[[bytes], bytes]) -> None:
    spoilt = spoil(MANIFEST.to_bytes())
    assert spoilt != MANIFEST.to_bytes()
    with pytest.raises(ManifestInvalid):
        Manifest.from_bytes(spoilt)


@given(data=st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        Manifest.from_bytes(data)


def test_canonical_json_follows_rfc_8785() -> None:
    """The example of section 3.2.2, and the order by UTF-16 of section 3.2.3."""
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]
    assert canonical_json({"numbers": numbers, "literals": [None, True, False]}) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'
    )
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@given(value=json_values)
def test_canonical_json_is_json_and_does_not_depend_on_order(value: JSON) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text
    assert digest_json(value) == digest_of(text)


@pytest.mark.parametrize("value", [math.nan, {1: 2}, {"a": object()}, "\ud800", {"\ud800": 1}, b"", {1, 2}])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(ManifestInvalid):
        canonical_json(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ManifestInvalid):
        canonical_json(loop)


def test_a_status_enum_is_written_as_its_text() -> None:
    class Guarantee(StrEnum):
        EXACT = "exact"

    assert replace(MANIFEST, guarantee=Guarantee.EXACT).to_bytes() == MANIFEST.to_bytes()


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        MANIFEST.covers = 8  # type: ignore[misc]  # this is what the test is about
