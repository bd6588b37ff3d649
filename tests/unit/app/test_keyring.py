"""Keyed hashes: the same id, the same hash, and nothing that gives a key away."""

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import SetupError
from app.keyring import Keyring, commitment, create_keys, load_keyring, normalised
from app.settings import Settings

KEYRING = Keyring(hmac_keys=(b"a" * 32, b"b" * 32), plan_root=b"p" * 32, signing_seed=b"s" * 32)
_id = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


def test_a_ref_is_the_hmac_of_type_and_id_for_every_live_key() -> None:
    refs = KEYRING.subject_refs(" ann ", subject_type="person")
    assert refs == tuple(hmac.digest(key, b"person\0ann", "sha256") for key in KEYRING.hmac_keys)


@given(_id)
def test_normalising_is_idempotent_and_decides_equality(subject_id: str) -> None:
    once = normalised(subject_id)
    assert normalised(once) == once
    assert KEYRING.subject_refs(f"\t{subject_id}\n", subject_type="person") == KEYRING.subject_refs(
        once, subject_type="person"
    )


@given(_id, _id)
def test_type_and_id_never_run_into_each_other(one: str, other: str) -> None:
    refs = {
        KEYRING.subject_refs(subject_id, subject_type=kind)
        for kind in ("a", "b")
        for subject_id in (one, other)
    }
    assert len(refs) == 2 * len({normalised(one), normalised(other)})


@pytest.mark.parametrize("subject_id", ["", "  ", "\n", "a\0b"])
def test_an_id_without_content_or_with_a_nul_is_refused(subject_id: str) -> None:
    with pytest.raises(ValueError, match="subject id"):
        KEYRING.subject_refs(subject_id, subject_type="person")


def test_purposes_models_and_keys_are_kept_apart() -> None:
    secrets = [KEYRING.derived("a"), KEYRING.derived("b"), KEYRING.plan_key("m1"), KEYRING.plan_key("m2")]
    assert len(set(secrets)) == len(secrets)
    assert len({*KEYRING.key_ids(), KEYRING.plan_key_id("m1"), KEYRING.plan_key_id("m2")}) == 4
    assert commitment(b"n" * 32, "ann", subject_type="person") != commitment(
        b"m" * 32, "ann", subject_type="person"
    )


def test_the_repr_shows_no_secret() -> None:
    assert "aaa" not in repr(KEYRING)
    assert "ssss" not in repr(KEYRING)


@given(_id)
def test_the_held_out_fraction_is_a_share(subject_id: str) -> None:
    ref = KEYRING.subject_refs(subject_id, subject_type="person")[0]
    assert 0.0 <= KEYRING.held_out_fraction(ref, dataset="d") < 1.0


def test_keys_are_made_once_and_read_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert len(create_keys(settings)) == 3
    first = load_keyring(settings)
    assert create_keys(settings) == []
    assert load_keyring(settings) == first


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33])
def test_a_wrong_key_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    settings = Settings(home=tmp_path)
    create_keys(settings)
    (tmp_path / "keys" / "hmac.key").write_text(text)
    with pytest.raises(SetupError, match="hmac") as refused:
        load_keyring(settings)
    assert not text or text not in str(refused.value)


def test_a_second_hmac_key_is_added_as_a_second_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    create_keys(settings)
    path = tmp_path / "keys" / "hmac.key"
    path.write_text("cd" * 32 + "\n" + path.read_text())
    assert load_keyring(settings).hmac_keys[0] == bytes.fromhex("cd" * 32)
    assert len(load_keyring(settings).key_ids()) == 2
