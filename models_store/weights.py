"""Weights from outside: a safetensors file that somebody hands in, held against the net it is for.

Promises: of a file larger than the net only the header is read; what is returned has the net's names, dtypes
and shapes and is finite; a refusal names every tensor that is at fault. Never unpickles.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from models_store.errors import TensorFileRefused
from models_store.manifest import JSON
from models_store.tensors import HEADER_LIMIT_BYTES, check_against, read_header, unpack

_LENGTH_BYTES = 8


def read_weights(path: Path, *, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a file, on CPU; `expected` is the state dict of the net.

    Raises TensorFileRefused: it cannot be read, is no safetensors file, or does not fit the net.
    """
    try:
        if not path.is_file():
            raise TensorFileRefused("there is no such file")
        size = path.stat().st_size
        most = sum(tensor.nbytes for tensor in expected.values())
        if size > most + HEADER_LIMIT_BYTES + _LENGTH_BYTES:
            with path.open("rb") as file:
                header = read_header(file.read(HEADER_LIMIT_BYTES + _LENGTH_BYTES), size=size)
            raise TensorFileRefused(_too_large(header, size=size, most=most, expected=expected))
        tensors, _ = unpack(path.read_bytes())
    except OSError as error:
        raise TensorFileRefused(f"cannot be read: {error.strerror}") from error
    check_against(tensors, expected=expected)
    return tensors


def _too_large(
    header: Mapping[str, JSON], *, size: int, most: int, expected: Mapping[str, torch.Tensor]
) -> str:
    """Say what a file holds that the net has no room for, by its header alone."""
    problems = [f"{size} bytes, where the net has {most}"]
    for name, entry in sorted(header.items()):
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if name not in expected and isinstance(shape, list):
            problems.append(f"tensor {name!r}: unexpected")
        elif name in expected and shape != list(expected[name].shape):
            problems.append(f"tensor {name!r}: shape {shape}, expected {list(expected[name].shape)}")
    return "; ".join(problems)
