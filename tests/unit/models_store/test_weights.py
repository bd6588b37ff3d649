"""Weights from outside: what does not fit the net is refused, and every tensor at fault is named."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models_store.errors import TensorFileRefused
from models_store.tensors import HEADER_LIMIT_BYTES, tensor_digest
from models_store.weights import read_weights

Tensors = dict[str, torch.Tensor]
EXPECTED: Tensors = {
    "body.weight": torch.zeros(3, 2),
    "body.bias": torch.zeros(3),
    "norm.running_mean": torch.zeros(3),
    "norm.num_batches_tracked": torch.tensor(0),
    "head.weight": torch.zeros(2, 3),
}
FAULTS: dict[str, tuple[str, Callable[[Tensors, str], object]]] = {
    "missing": ("missing", lambda found, name: found.pop(name)),
    "more rows": ("shape", lambda found, name: found.update({name: torch.zeros(4, 4)})),
    "flat": ("shape", lambda found, name: found.update({name: torch.zeros(EXPECTED[name].numel() + 1)})),
    "halves": ("dtype", lambda found, name: found.update({name: EXPECTED[name].to(torch.float16)})),
    "NaN": ("holds NaN", lambda found, name: found.update({name: with_value(name, float("nan"))})),
    "infinity": ("holds NaN", lambda found, name: found.update({name: with_value(name, -float("inf"))})),
    "added": ("unexpected", lambda found, name: found.update({f"{name}.copy": torch.zeros(1)})),
}


def fitting() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.tensor(7)
        if tensor.dtype == torch.int64
        else torch.randn(tensor.shape, generator=generator)
        for name, tensor in EXPECTED.items()
    }


def with_value(name: str, value: float) -> torch.Tensor:
    tensor = EXPECTED[name].to(torch.float32).clone()
    tensor.view(-1)[-1] = value
    return tensor if EXPECTED[name].dtype == torch.float32 else torch.zeros(9)  # whole numbers have no NaN


def problems_in(path: Path) -> dict[str, str]:
    """Return what is said of each tensor that a refusal names."""
    with pytest.raises(TensorFileRefused) as refused:
        read_weights(path, expected=EXPECTED)
    parts = [part for part in str(refused.value).split("; ") if part.startswith("tensor ")]
    return {part.split("'")[1]: part.split("': ")[1] for part in parts}


@settings(deadline=None, max_examples=60)
@given(faults=st.dictionaries(st.sampled_from(sorted(EXPECTED)), st.sampled_from(sorted(FAULTS)), min_size=1))
def test_every_tensor_at_fault_is_named_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, faults: dict[str, str]
) -> None:
    path, found = tmp_path_factory.getbasetemp() / "faulty.safetensors", fitting()
    for name, fault in faults.items():
        FAULTS[fault][1](found, name)
    save_file(found, path)
    named = {f"{name}.copy" if fault == "added" else name: fault for name, fault in faults.items()}
    said = problems_in(path)
    assert said.keys() == named.keys()
    for name, fault in named.items():
        is_number = name == "norm.num_batches_tracked"
        assert said[name].startswith(FAULTS[fault][0] if not is_number or fault == "missing" else "dtype")


def test_weights_that_fit_come_back_bit_for_bit(tmp_path: Path) -> None:
    save_file(fitting(), tmp_path / "weights", metadata={"format": "pt"})
    assert tensor_digest(read_weights(tmp_path / "weights", expected=EXPECTED)) == tensor_digest(fitting())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_by_its_content_whatever_it_is_called(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Bomb(str(tmp_path / "went off")), protocol=protocol))
    with pytest.raises(TensorFileRefused, match="a pickle"):
        read_weights(path, expected=EXPECTED)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_saves_is_refused_by_its_content(tmp_path: Path, is_zip: bool) -> None:
    written, path = io.BytesIO(), tmp_path / "weights.safetensors"
    torch.save(fitting(), written, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(written.getvalue())
    with pytest.raises(TensorFileRefused, match="a pickle, or a zip archive"):
        read_weights(path, expected=EXPECTED)


@pytest.mark.parametrize("num_bytes", [0, 7, 8, 100])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, num_bytes: int) -> None:
    save_file(fitting(), tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:num_bytes])
    with pytest.raises(TensorFileRefused, match="not a safetensors file"):
        read_weights(tmp_path / "cut", expected=EXPECTED)


def test_offsets_that_leave_bytes_over_are_refused(tmp_path: Path) -> None:
    save_file(fitting(), tmp_path / "whole")
    (tmp_path / "more").write_bytes((tmp_path / "whole").read_bytes() + b"\0" * 4)
    with pytest.raises(TensorFileRefused, match="not a safetensors file"):
        read_weights(tmp_path / "more", expected=EXPECTED)


def test_of_a_file_larger_than_the_net_only_the_header_is_read(tmp_path: Path) -> None:
    """A hole of a terabyte stands for the bytes: reading them would end this process."""
    begins = {"body.weight": [2**38], "teacher": [4], "head.weight": [2, 3]}
    entries = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in begins.items()
    }
    header = json.dumps(entries).encode()
    with (tmp_path / "large").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(2**40)
    said = problems_in(tmp_path / "large")
    assert said == {"body.weight": f"shape [{2**38}], expected [3, 2]", "teacher": "unexpected"}
    assert HEADER_LIMIT_BYTES < 2**30


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(TensorFileRefused, match="there is no such file"):
            read_weights(path, expected=EXPECTED)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")
