"""Tensor files and tensor digests. With `ensemble`, all of the store that needs torch.

Promises: equal tensors and an equal note give equal bytes, on any machine and in any process; what is read
was checked before a tensor was made of it; a digest stands for one mapping of names to dtype, shape, bytes.

Never unpickles: torch.load is not called, and a pickle or zip archive is refused by its content, because it
has no safetensors header, whatever its file is called.
"""

import hashlib
import json
import sys
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError

from models_store.blobs import Digest
from models_store.errors import TensorFileRefused
from models_store.manifest import JSON, canonical_json

HEADER_LIMIT_BYTES = 4 * 2**20  # some 30 000 tensors

# One entry only: safetensors writes several in an order that differs from process to process.
_NOTE_KEY = "expunge"
# How a zip archive begins, and a pickle of protocol 2 or later.
_PICKLES = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
_METADATA_KEY = "__metadata__"
_DIGEST_DOMAIN = b"expunge/tensors@1\n"

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_KNOWN_DTYPES = frozenset(_DTYPES.values())

# Digests are taken over memory as it lies, which is the same everywhere only on little-endian machines.
assert sys.byteorder == "little"


def pack(tensors: Mapping[str, torch.Tensor], *, note: Mapping[str, JSON]) -> bytes:
    """Safetensors bytes of CPU copies, the note in the header; ManifestInvalid if the note is not JSON.

    Tensors that share storage are stored once each: which of them share is the factory's business.
    """
    # clone: safetensors refuses two tensors on one storage.
    copies = {name: _plain(tensor, name=name).clone() for name, tensor in tensors.items()}
    metadata = {_NOTE_KEY: canonical_json(dict(note)).decode("utf-8")}
    data = safetensors.torch.save(copies, metadata=metadata)
    if int.from_bytes(data[:8], "little") > HEADER_LIMIT_BYTES:
        raise TensorFileRefused("names and note are longer than the limit of a header")
    return data


def unpack(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, JSON]]:
    """The tensors, on CPU, and the note ({} if another program wrote the file); else TensorFileRefused."""
    header = read_header(data, size=len(data))
    note = _note(header.pop(_METADATA_KEY, {}))
    for name, entry in header.items():
        if not isinstance(entry, dict) or str(entry.get("dtype")) not in _DTYPES:
            raise TensorFileRefused(f"tensor {name!r}: dtype unknown")
    try:
        tensors = safetensors.torch.load(data)  # offsets are checked here
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise TensorFileRefused(f"not a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        _require_boolean_bytes(tensor, name=name)
    return tensors, note


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> Digest:
    """SHA-256 over the number of tensors, then name, dtype, shape and bytes of each, ordered by name.

    Every part is preceded by its length, so two different mappings never give one stream. Bytes are bytes:
    NaN payloads and signed zeros count.
    """
    stream = hashlib.sha256(_DIGEST_DOMAIN + _eight_bytes(len(tensors)))
    for name in sorted(tensors):
        plain = _plain(tensors[name], name=name)
        shape = b"".join(_eight_bytes(length) for length in plain.shape)
        raw = plain.reshape(-1).view(torch.uint8).numpy().data
        dtype = str(plain.dtype).removeprefix("torch.").encode("ascii")
        for part in (name.encode("utf-8"), dtype, shape, raw):
            stream.update(_eight_bytes(len(part)))
            stream.update(part)
    return Digest(stream.hexdigest())


def check_against(tensors: Mapping[str, torch.Tensor], *, expected: Mapping[str, torch.Tensor]) -> None:
    """Same names, dtypes and shapes as `expected` (whose values do not matter) and finite.

    Raises TensorFileRefused, which names every tensor that is not. `expected` may be on the meta device.
    """
    found = ((name, _problem(tensors.get(name), expected.get(name))) for name in {*expected, *tensors})
    problems = [f"tensor {name!r}: {problem}" for name, problem in sorted(found) if problem]
    if problems:
        raise TensorFileRefused("; ".join(problems))


def _problem(tensor: torch.Tensor | None, expected: torch.Tensor | None) -> str:
    """Say why a tensor is not the expected one; empty if it is."""
    if tensor is None:
        return "missing"
    if expected is None:
        return "unexpected"
    if tensor.dtype != expected.dtype:
        return f"dtype {tensor.dtype}, expected {expected.dtype}"
    if tensor.shape != expected.shape:
        return f"shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}"
    return "" if bool(torch.isfinite(tensor).all()) else "holds NaN or infinity"


def _plain(tensor: torch.Tensor, *, name: str) -> torch.Tensor:
    """The tensor on CPU, dense and contiguous, free of autograd; refused if the file could not hold it."""
    if name == _METADATA_KEY or not _is_utf8(name):
        raise TensorFileRefused(f"tensor {name!r}: the name cannot stand in a header")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _KNOWN_DTYPES:
        raise TensorFileRefused(
            f"tensor {name!r}: {tensor.dtype}, {tensor.layout} on {tensor.device} is not stored"
        )
    return tensor.detach().cpu().contiguous()


def read_header(data: bytes, *, size: int) -> dict[str, JSON]:
    """The JSON header, whose length in bytes stands in the first eight; else TensorFileRefused.

    `data` is a file of `size` bytes, or so much of its beginning that any lawful header is in it.
    """
    length = int.from_bytes(data[:8], "little")
    if size < 8 or length > min(HEADER_LIMIT_BYTES, size - 8):
        if data.startswith(_PICKLES):
            raise TensorFileRefused(
                "not a safetensors file: a pickle, or a zip archive as torch.save writes; nothing of it is "
                "read, because reading a pickle runs it: write the state dict with safetensors"
            )
        raise TensorFileRefused("not a safetensors file: the header is longer than the file or the limit")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise TensorFileRefused(f"not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise TensorFileRefused("not a safetensors file: the header is not an object")
    return header


def _without_doubles(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """Parsers disagree on which of two equal keys counts, so what we checked might not be what was loaded."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice in the header")
    return dict(pairs)


def _note(metadata: JSON) -> dict[str, JSON]:
    text = metadata.get(_NOTE_KEY, "{}") if isinstance(metadata, dict) else None
    try:
        note = json.loads(text) if isinstance(text, str) else None
        if isinstance(note, dict) and canonical_json(note).decode("utf-8") == text:
            return note
    except (ValueError, RecursionError) as error:
        raise TensorFileRefused(f"the note is not JSON: {error}") from error
    raise TensorFileRefused("the note is not a JSON object in canonical form")


def _require_boolean_bytes(tensor: torch.Tensor, *, name: str) -> None:
    """A bool whose byte is neither 0 nor 1 is undefined behaviour in the kernels."""
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise TensorFileRefused(f"tensor {name!r}: holds a byte that is no boolean")


def _eight_bytes(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _is_utf8(text: str) -> bool:
    """False for lone surrogates, which Python's text may hold and files may not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
