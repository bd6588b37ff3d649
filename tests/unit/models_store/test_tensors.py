"""What tensor files and tensor digests promise."""

import io
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models_store.blobs import digest_of
from models_store.errors import ManifestInvalid, TensorFileRefused
from models_store.tensors import HEADER_LIMIT_BYTES, check_against, pack, tensor_digest, unpack

REPOSITORY = Path(__file__).parents[3]
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]
REPACK = """
import sys
from models_store.tensors import pack, unpack
tensors, note = unpack(sys.stdin.buffer.read())
sys.stdout.buffer.write(pack(dict(reversed(tensors.items())), note=dict(reversed(note.items()))))
"""


@pytest.fixture(scope="module", autouse=True)
def other_process() -> Iterator["subprocess.Popen[bytes]"]:
    """Packs anew under another hash seed; started before the first test, since importing torch takes long."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    with subprocess.Popen(
        [sys.executable, "-c", REPACK],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": seed},
    ) as process:
        yield process
        process.kill()


@st.composite
def tensors_of_any_kind(draw: st.DrawFn) -> torch.Tensor:
    """Any supported dtype, 0 to 3 dimensions of length 0 to 3, any bytes: NaN payloads included."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=num_bytes, max_size=num_bytes)))
    if not raw:
        return torch.empty(shape, dtype=dtype)
    values = torch.frombuffer(raw, dtype=torch.uint8)
    return (values % 2 == 0 if dtype == torch.bool else values.view(dtype)).reshape(shape)


mappings = st.dictionaries(st.text(max_size=4), tensors_of_any_kind(), max_size=4)


def stream(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[object, ...]]:
    """What must be preserved, in a form that Python compares: bytes, since NaN differs from itself."""
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.reshape(-1).view(torch.uint8).tolist()))
        for name, tensor in tensors.items()
    }


@settings(deadline=None, max_examples=50)
@given(tensors=mappings)
def test_unpacking_undoes_packing_to_the_last_bit(tensors: dict[str, torch.Tensor]) -> None:
    data = pack(tensors, note={"epoch": 3})
    found, note = unpack(data)
    assert stream(found) == stream(tensors)
    assert note == {"epoch": 3}
    assert pack(found, note=note) == data
    assert tensor_digest(found) == tensor_digest(tensors)


@settings(deadline=None, max_examples=50)
@given(one=mappings, two=mappings)
def test_two_mappings_have_one_digest_only_if_they_are_equal(
    one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]
) -> None:
    assert (tensor_digest(one) == tensor_digest(two)) == (stream(one) == stream(two))


def test_no_two_near_misses_share_a_digest() -> None:
    zero = torch.zeros(4)
    near_misses = [
        {},
        {"": torch.empty(0)},
        {"a": torch.empty(0)},
        {"a": torch.empty(0, 1)},
        {"a": torch.empty(1, 0)},
        {"a": torch.empty(0, dtype=torch.int64)},
        {"a": zero},
        {"b": zero},
        {"a": zero.reshape(2, 2)},
        {"a": zero.reshape(4, 1)},
        {"a": zero.to(torch.int32)},
        {"a": zero.to(torch.float64)[:2]},
        {"a": -zero},
        {"a": zero[:2], "b": zero[2:]},
        {"a": zero[:1], "b": zero[1:]},
        {"ab": zero},
        {"a": torch.tensor(0.0)},
        {"a": torch.tensor([0.0])},
        {"a": torch.tensor([float("nan")])},
        {"a": torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)},
    ]
    assert len({tensor_digest(tensors) for tensors in near_misses}) == len(near_misses)


def test_the_digest_is_pinned() -> None:
    """A change here means that no digest in any receipt could be compared any more."""

    def framed(part: bytes) -> bytes:
        return len(part).to_bytes(8, "little") + part

    two, three = (number.to_bytes(8, "little") for number in (2, 3))
    stream = b"expunge/tensors@1\n" + two
    stream += framed(b"a") + framed(b"bfloat16") + framed(b"") + framed(b"\x80\x3f")
    stream += framed(b"b") + framed(b"int16") + framed(two + three) + framed(bytes(range(12)))
    matrix = torch.frombuffer(bytearray(range(12)), dtype=torch.int16).reshape(2, 3)
    assert tensor_digest({"b": matrix, "a": torch.tensor(1, dtype=torch.bfloat16)}) == digest_of(stream)


def test_memory_layout_and_order_change_neither_bytes_nor_digest() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    plain = {"w": base.clone(), "v": base.t().contiguous()}
    odd = {"v": base.t(), "w": base.clone().requires_grad_()}
    assert tensor_digest(odd) == tensor_digest(plain)
    assert pack(odd, note={}) == pack(plain, note={})


def test_tensors_on_one_storage_come_back_as_two() -> None:
    base = torch.arange(4.0)
    found, _ = unpack(pack({"a": base, "b": base, "tail": base[2:], "wide": base[:1].expand(3)}, note={}))
    found["a"].zero_()
    assert base.tolist() == found["b"].tolist() == [0, 1, 2, 3]
    assert found["tail"].tolist() == [2, 3]
    assert found["wide"].tolist() == [0, 0, 0]


def test_a_pickle_is_refused_by_content() -> None:
    archive = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, archive)
    old = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    for data in [
        archive.getvalue(),
        old.getvalue(),
        *(pickle.dumps({"w": 1}, protocol) for protocol in range(6)),
    ]:
        with pytest.raises(TensorFileRefused, match="not a safetensors file"):
            unpack(data)


def with_header(header: object, *, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(start: int, end: int, *, dtype: object = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\0\0\0\0\0\0",
        b"\xff" * 8 + b"{}",
        with_header([]),
        with_header(b"{}", body=b"left over"),
        with_header(b"\xff\xfe{}"),
        with_header(b"[" * 50_000),
        with_header({"w": entry(0, 4)}, body=b"\0\0\0"),
        with_header({"w": entry(0, 4)}, body=b"\0\0\0\0\0"),
        with_header({"w": entry(4, 8)}, body=b"\0" * 8),
        with_header({"w": entry(4, 0)}, body=b"\0" * 4),
        with_header({"w": entry(0, 4), "v": entry(0, 4)}, body=b"\0" * 4),
        with_header({"w": entry(0, 4, shape=[2])}, body=b"\0" * 4),
        with_header({"w": entry(0, 4, shape=[-1])}, body=b"\0" * 4),
        with_header({"w": entry(0, 0, shape=[2**62, 4, 0])}),
        with_header({"w": entry(0, 0, shape=[0, 2**62, 4])}),
        with_header({"w": entry(0, 0, shape=[2**63, 0])}),
        with_header({"w": entry(0, 4, dtype="F8_E4M3", shape=[4])}, body=b"\0" * 4),
        with_header({"w": entry(0, 4, dtype=["F32"])}, body=b"\0" * 4),
        with_header({"w": entry(0, 2, dtype="BOOL", shape=[2])}, body=b"\x01\x02"),
        with_header({"w": "F32"}),
        with_header(b'{"w":%s,"w":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), body=b"\0" * 4),
        with_header({"__metadata__": "text"}),
        with_header({"__metadata__": {"expunge": "[]"}}),
        with_header({"__metadata__": {"expunge": "{"}}),
        with_header({"__metadata__": {"expunge": '{"a": 1}'}}),
        with_header({"__metadata__": {"expunge": '{"a":NaN}'}}),
    ],
)
def test_a_file_whose_header_lies_is_refused(data: bytes) -> None:
    with pytest.raises(TensorFileRefused):
        unpack(data)


def test_a_header_beyond_the_limit_is_refused_although_it_is_valid() -> None:
    fits = with_header(b"{}".ljust(HEADER_LIMIT_BYTES))
    assert unpack(fits) == ({}, {})
    with pytest.raises(TensorFileRefused, match="limit"):
        unpack(with_header(b"{}".ljust(HEADER_LIMIT_BYTES + 1)))


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.none() | st.integers(0, 10_000))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    position: int, value: int, cut: int | None
) -> None:
    data = bytearray(pack({"w": torch.ones(2, 3), "b": torch.tensor([True, False])}, note={"a": 1}))
    data[position % len(data)] = value
    if cut is not None:
        del data[cut % len(data) :]
    try:
        found, note = unpack(bytes(data))
    except TensorFileRefused:
        return
    assert unpack(pack(found, note=note))[0].keys() == found.keys()


def test_a_file_of_another_program_has_an_empty_note() -> None:
    data = with_header({"__metadata__": {"format": "pt"}, "w": entry(0, 4)}, body=b"\0\0\x80\x3f")
    assert unpack(data) == ({"w": torch.ones(1)}, {})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
    ],
    ids=["complex", "sparse", "meta", "float8"],
)
def test_a_tensor_that_cannot_be_stored_is_named(tensor: torch.Tensor) -> None:
    with pytest.raises(TensorFileRefused, match=r"'head.weight'"):
        pack({"head.weight": tensor}, note={})
    with pytest.raises(TensorFileRefused, match=r"'head.weight'"):
        tensor_digest({"head.weight": tensor})


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_no_header_can_hold_is_refused(name: str) -> None:
    for write in (tensor_digest, lambda tensors: pack(tensors, note={})):
        with pytest.raises(TensorFileRefused, match="the name cannot stand"):
            write({name: torch.zeros(1)})


def test_a_note_that_could_not_be_read_back_is_refused() -> None:
    with pytest.raises(ManifestInvalid):
        pack({}, note={"rate": float("nan")})
    with pytest.raises(TensorFileRefused, match="limit"):
        pack({}, note={"text": "a" * HEADER_LIMIT_BYTES})


EXPECTED = {"w": torch.zeros(2, 3), "n": torch.tensor(3), "h": torch.zeros(2, dtype=torch.bfloat16)}


def test_tensors_that_fit_the_architecture_pass_whatever_their_values() -> None:
    tensors = {"w": torch.randn(2, 3), "n": torch.tensor(9), "h": torch.ones(2, dtype=torch.bfloat16)}
    check_against(tensors, expected=EXPECTED)
    check_against(tensors, expected={name: tensor.to("meta") for name, tensor in EXPECTED.items()})


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("w", None, "missing"),
        ("extra", torch.zeros(1), "unexpected"),
        ("w", torch.zeros(3, 2), "shape"),
        ("w", torch.zeros(6), "shape"),
        ("n", torch.tensor([3]), "shape"),
        ("w", torch.zeros(2, 3, dtype=torch.float64), "dtype"),
        ("n", torch.tensor(3, dtype=torch.int32), "dtype"),
        ("w", torch.full((2, 3), float("nan")), "NaN"),
        ("h", torch.tensor([0, float("-inf")], dtype=torch.bfloat16), "infinity"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name: str, tensor: torch.Tensor | None, complaint: str) -> None:
    changed = {key: value for key, value in {**EXPECTED, name: tensor}.items() if value is not None}
    with pytest.raises(TensorFileRefused, match=f"^tensor '{name}': .*{complaint}"):
        check_against(changed, expected=EXPECTED)


def test_a_lenet_is_digested_in_less_than_two_milliseconds() -> None:
    """It runs after every block; the best of several, since other programs run beside the tests."""
    shapes = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)]
    state = {f"layer.{number}": torch.randn(shape) for number, shape in enumerate(shapes)}
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        tensor_digest(state)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.002


def test_another_process_with_another_hash_seed_packs_the_same_bytes(
    other_process: "subprocess.Popen[bytes]",
) -> None:
    tensors = {name: torch.arange(6).to(dtype) for name, dtype in zip("jcafbdgeih", DTYPES, strict=True)}
    data = pack(tensors, note={"plan": {"seed": 7, "blocks": [1, 2]}, "epoch": 3, "a": "b", "z": None})
    assert other_process.communicate(data)[0] == data
