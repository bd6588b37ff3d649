"""The three secrets and what is derived from them: subject and record hashes, plan keys, signatures.

Promises: a raw subject or record id never leaves this module; the same id gives the same hash for as long
as its key lives. Look-ups try every live HMAC key, the first of which is primary.
Never: writes a key anywhere but under ``settings.keys_folder``, mode 0600.
"""

import hashlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.domain.errors import SetupError
from app.settings import Settings

KEY_BYTES = 32
_FILES = {"hmac_keys": "hmac.key", "plan_root": "plan-root.key", "signing_key": "signing.key"}


@dataclass(frozen=True, repr=False)
class Keyring:
    """The secrets of one installation; its ``repr`` shows none of them."""

    hmac_keys: tuple[bytes, ...]
    plan_root: bytes
    signing_seed: bytes

    def subject_refs(self, subject_id: str, *, subject_type: str) -> tuple[bytes, ...]:
        """Return the keyed hashes of a subject id, one for each live key, the primary first.

        Raises:
            ValueError: nothing is left of the id after normalising (NFC, stripped).
        """
        return tuple(_mac(key, subject_type, normalised(subject_id)) for key in self.hmac_keys)

    def record_refs(self, record_id: str, *, dataset: str) -> tuple[bytes, ...]:
        """Return the keyed hashes of a record id within ``dataset`` (its name)."""
        return tuple(_mac(key, "record", dataset, record_id) for key in self.hmac_keys)

    def suppression_refs(self, record_id: str, *, subject_id: str, subject_type: str) -> tuple[bytes, ...]:
        """Return the keyed hashes that keep one record of a subject out of datasets of any name."""
        subject = normalised(subject_id)
        return tuple(
            _mac(key, "suppressed-record", subject_type, subject, record_id) for key in self.hmac_keys
        )

    def held_out_fraction(self, subject_ref: bytes, *, dataset: str) -> float:
        """Return a number in [0, 1) that depends on the subject alone: the held-out share compares it."""
        digest = hmac.digest(self.derived("held-out"), dataset.encode() + b"\0" + subject_ref, "sha256")
        return int.from_bytes(digest[:8], "big") / 2**64

    def plan_key(self, model_id: str) -> bytes:
        """Return the 32 secret bytes that the order of training of one model comes from."""
        return _hkdf(self.plan_root, f"plan:{model_id}")

    def plan_key_id(self, model_id: str) -> str:
        """Return a name of the plan key that does not give the key away."""
        return hashlib.sha256(b"expunge plan key id\0" + self.plan_key(model_id)).hexdigest()[:16]

    def derived(self, purpose: str) -> bytes:
        """Return a key for another purpose (page tokens, idempotency), from the primary HMAC key."""
        return _hkdf(self.hmac_keys[0], purpose)

    def mac(self, purpose: str, data: bytes) -> bytes:
        """Return HMAC-SHA256 of ``data`` under the key derived for ``purpose``."""
        return hmac.digest(self.derived(purpose), data, "sha256")

    def key_id(self) -> str:
        """Return a name of the primary HMAC key that does not give it away."""
        return self.key_ids()[0]

    def key_ids(self) -> tuple[str, ...]:
        """Return the names of every live HMAC key, the primary's first."""
        return tuple(
            hashlib.sha256(b"expunge hmac key id\0" + key).hexdigest()[:16] for key in self.hmac_keys
        )

    def public_key(self) -> bytes:
        """Return the 32 bytes of the Ed25519 key that verifies receipts."""
        private = Ed25519PrivateKey.from_private_bytes(self.signing_seed)
        return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def normalised(subject_id: str) -> str:
    """Return a subject id as both doors, import and API, compare it: NFC, outer white space removed."""
    text = unicodedata.normalize("NFC", subject_id).strip()
    if not text or "\0" in text:
        # The NUL separates the parts of what is hashed, so it may not stand in one of them.
        raise ValueError("the subject id is empty or contains a NUL")
    return text


def commitment(nonce: bytes, subject_id: str, *, subject_type: str) -> bytes:
    """Return HMAC-SHA256(nonce, type || 0 || id): only who kept the nonce can open it."""
    return _mac(nonce, subject_type, normalised(subject_id))


def load_keyring(settings: Settings) -> Keyring:
    """Return the keys from the environment or from ``settings.keys_folder``.

    Raises:
        SetupError: a key is missing or is not 32 bytes in hex.
    """
    hmac_text = _secret(settings, "hmac_keys").replace(",", "\n").split()
    if not hmac_text:
        raise SetupError("hmac_keys holds no key")
    return Keyring(
        hmac_keys=tuple(_key_bytes(text, name="hmac_keys") for text in hmac_text),
        plan_root=_key_bytes(_secret(settings, "plan_root"), name="plan_root"),
        signing_seed=_key_bytes(_secret(settings, "signing_key"), name="signing_key"),
    )


def fresh_keys() -> dict[str, str]:
    """Return a new set of keys by the variable that each is read from; nothing is written."""
    return {_variable(name): secrets.token_hex(KEY_BYTES) for name in _FILES}


def create_keys(settings: Settings) -> list[Path]:
    """Make the keys that do not exist yet as 0600 files and return their paths."""
    settings.keys_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for name, file_name in _FILES.items():
        path = settings.keys_folder / file_name
        if getattr(settings, name) or path.exists():
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        made.append(path)
    return made


def _secret(settings: Settings, name: str) -> str:
    given = str(getattr(settings, name))
    if given:
        return given
    path = settings.keys_folder / _FILES[name]
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SetupError(f"no key at {path}: run `expunge init` or set {_variable(name)}") from error


def _variable(name: str) -> str:
    return f"EXPUNGE_{name.upper()}"


def _key_bytes(text: str, *, name: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise SetupError(f"{name} is not hexadecimal") from error
    if len(key) != KEY_BYTES:
        raise SetupError(f"{name} has {len(key)} bytes, not {KEY_BYTES}")
    return key


def _mac(key: bytes, *parts: str) -> bytes:
    return hmac.digest(key, b"\0".join(part.encode() for part in parts), "sha256")


@lru_cache(maxsize=256)
def _hkdf(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(key)
