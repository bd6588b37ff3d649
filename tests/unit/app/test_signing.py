"""Signatures: only what was signed, whole, by these keys."""

import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import ReceiptInvalid
from app.keyring import Keyring
from app.signing import public_keys, sign, verify

KEYRING = Keyring(hmac_keys=(b"h" * 32,), plan_root=b"p" * 32, signing_seed=b"s" * 32)
OTHER = Keyring(hmac_keys=(b"h" * 32,), plan_root=b"p" * 32, signing_seed=b"t" * 32)
STATEMENT = {"request": "del_1", "models": [{"model": "churn", "done_at": 1.5}], "text": "\u00e9"}
TOKEN = sign(STATEMENT, keyring=KEYRING)
KEYS = public_keys(KEYRING)


def test_what_was_signed_is_what_is_verified() -> None:
    assert verify(TOKEN + "\n", keys=KEYS) == STATEMENT


@pytest.mark.parametrize("bit", range(8))
def test_flipping_any_bit_of_any_byte_fails(bit: int) -> None:
    raw = TOKEN.encode()
    for place in range(len(raw)):
        flipped = bytes([*raw[:place], raw[place] ^ (1 << bit), *raw[place + 1 :]]).decode("latin-1")
        with pytest.raises(ReceiptInvalid):
            verify(flipped, keys=KEYS)


def test_cutting_or_repeating_any_part_fails() -> None:
    for wrong in [
        TOKEN[:-1],
        TOKEN[1:],
        TOKEN + "A",
        TOKEN + ".",
        TOKEN * 2,
        ".".join(TOKEN.split(".")[:2]),
        "",
    ]:
        with pytest.raises(ReceiptInvalid):
            verify(wrong, keys=KEYS)


def test_what_is_no_receipt_is_called_that() -> None:
    with pytest.raises(ReceiptInvalid, match=r"^this is not a receipt"):
        verify('{"type": "urn:expunge:problem:receipt-not-ready"}', keys=public_keys(KEYRING))


def test_a_header_nested_beyond_reason_fails_and_nothing_worse() -> None:
    deep = urlsafe_b64encode(b"[" * 300_000).rstrip(b"=").decode()
    with pytest.raises(ReceiptInvalid):
        verify(".".join([deep, *TOKEN.split(".")[1:]]), keys=KEYS)


def test_another_key_fails_and_so_does_no_key() -> None:
    for keys in (
        public_keys(OTHER),
        {"keys": []},
        {},
        {"keys": [{"kty": "OKP"}]},
        {"keys": 1},
        {"keys": [1]},
    ):
        with pytest.raises(ReceiptInvalid):
            verify(TOKEN, keys=keys)


def test_a_key_set_of_several_keys_finds_the_right_one() -> None:
    both = {"keys": public_keys(OTHER)["keys"] + KEYS["keys"]}
    assert verify(TOKEN, keys=both) == STATEMENT


def test_the_published_keys_hold_nothing_secret() -> None:
    assert "d" not in KEYS["keys"][0]
    assert KEYRING.signing_seed.hex() not in json.dumps(KEYS)


@given(st.text(max_size=200))
def test_no_text_passes_or_breaks_the_verifier(text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(text, keys=KEYS)
