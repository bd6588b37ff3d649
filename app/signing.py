"""Sign receipts and verify them offline: compact JWS (RFC 7515) with Ed25519 over canonical JSON (RFC 8785).

Promises: ``verify`` accepts only the algorithm and the keys it was given; flipping any byte fails.
"""

import json
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

from app.domain.errors import ReceiptInvalid
from app.domain.terms import JsonObject
from app.keyring import Keyring
from models_store.manifest import canonical_json

# RFC 9864 names the curve; the older name "EdDSA" is deprecated.
ALGORITHM = "Ed25519"
MEDIA_TYPE = "application/jose"


def sign(statement: JsonObject, *, keyring: Keyring) -> str:
    """Return the statement as a compact JWS."""
    key = _private_key(keyring)
    header = {"alg": ALGORITHM, "kid": key.thumbprint(), "typ": "expunge-receipt+jws"}
    return jws.serialize_compact(header, canonical_json(statement), key, algorithms=[ALGORITHM])


def public_keys(keyring: Keyring) -> dict[str, Any]:
    """Return the JSON Web Key Set that verifies this installation's receipts."""
    key = _private_key(keyring)
    public = key.as_dict(private=False)
    return {"keys": [{**public, "kid": key.thumbprint(), "alg": ALGORITHM, "use": "sig"}]}


def verify(token: str, *, keys: dict[str, Any]) -> JsonObject:
    """Return what a receipt states.

    Raises:
        ReceiptInvalid: it is not a receipt, no key fits, or a byte was changed.
    """
    if token.count(".") != 2:
        raise ReceiptInvalid("this is not a receipt: one has three parts, separated by dots")
    try:
        key_set = KeySet.import_key_set(keys)  # type: ignore[arg-type]
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise ReceiptInvalid("these keys are no key set, as /.well-known/jwks.json gives") from error
    try:
        _refuse_loose_encoding(token.strip())
        signed = jws.deserialize_compact(token.strip(), key_set, algorithms=[ALGORITHM])
        statement = json.loads(signed.payload)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise ReceiptInvalid(f"the receipt does not verify: {str(error) or type(error).__name__}") from error
    if not isinstance(statement, dict) or canonical_json(statement) != signed.payload:
        raise ReceiptInvalid("the receipt is not in canonical form")
    return statement


def _refuse_loose_encoding(token: str) -> None:
    """Base64 has spare bits at its end: a flipped one decodes to the same bytes, so it is refused here."""
    for part in token.split("."):
        if urlsafe_b64encode(urlsafe_b64decode(part.encode())).decode() != part:
            raise ValueError("a part is not canonical base64url")


def _private_key(keyring: Keyring) -> OKPKey:
    return OKPKey.import_key(_private_dict(keyring))


def _private_dict(keyring: Keyring) -> dict[str, str | list[str]]:
    private = urlsafe_b64encode(keyring.signing_seed).decode()
    public = urlsafe_b64encode(keyring.public_key()).decode()
    return {"kty": "OKP", "crv": "Ed25519", "d": private, "x": public}
