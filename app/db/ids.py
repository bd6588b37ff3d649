"""New ids: a prefix that says what it names, then 128 random bits."""

import secrets
from typing import Literal

Prefix = Literal["del", "tgt", "mdl", "dat", "ver", "job", "ckp", "key", "scr"]


def new_id(prefix: Prefix) -> str:
    """Return a fresh id such as ``del_5f0c...``."""
    return f"{prefix}_{secrets.token_hex(16)}"
