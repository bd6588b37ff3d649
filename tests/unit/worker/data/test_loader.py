"""The loader: the same bits whichever way they travel, and never bytes that were erased or altered."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.data.conftest import Store, Stored, stored_in
from worker.data.data_files import DataCorrupt
from worker.data.loader import Transform

SHAPES = [(1, 4, 4), (1, 1, 4), (3, 1, 1), (1, 16, 1), (16,), (1,)]
DTYPES = ["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]


@pytest.fixture(scope="module")
def noise_blocks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], Stored]:
    return {shape: stored_in(tmp_path_factory.mktemp("noise"), shape=shape) for shape in SHAPES}


def rows_of_block(stored: Stored, block: int) -> np.ndarray:
    return np.array([n for n in range(len(stored.features)) if n % 3 == block and n % 10 != 9])


@pytest.mark.parametrize("dtype", DTYPES)
def test_resident_and_streamed_blocks_are_equal_bit_for_bit(stored: Store, dtype: str) -> None:
    data = stored(dtype=dtype)
    resident, streamed = data.loader(), data.loader(resident_bytes=0)
    for block in [0, 1, 2, 0, 2, 7]:
        one, other = resident.block(0, block), streamed.block(0, block)
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)
        assert np.array_equal(one.token_N2, other.token_N2)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_a_block_holds_its_own_training_records_and_no_other(stored: Store, resident_bytes: int) -> None:
    data = stored()
    loader = data.loader(resident_bytes=resident_bytes)
    for block in range(3):
        rows, found = rows_of_block(data, block), loader.block(0, block)
        assert np.array_equal(found.inputs.numpy(), data.features[rows])
        assert np.array_equal(found.labels.numpy(), data.labels[rows])
        assert np.array_equal(found.token_N2, data.table.token_N2[rows])
        assert loader.num_records(shard=0, block=block) == len(found) == len(rows) > 0


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_a_block_without_records_is_empty(stored: Store, resident_bytes: int) -> None:
    block = stored().loader(resident_bytes=resident_bytes).block(0, 5)
    assert len(block) == 0
    assert block.inputs.shape == (0, 1, 4, 4)


@pytest.mark.parametrize("shape", SHAPES)
@given(indices=st.lists(st.integers(0, 8), max_size=9))
def test_every_batch_has_the_standard_strides(
    noise_blocks: dict[tuple[int, ...], Stored], shape: tuple[int, ...], indices: list[int]
) -> None:
    block = noise_blocks[shape].loader().block(0, 0)
    inputs, labels = block.batch(np.array(indices, dtype=np.intp))
    assert inputs.stride() == torch.empty(len(indices), *shape).stride()
    assert torch.equal(inputs, block.inputs[indices])
    assert torch.equal(labels, block.labels[indices])


def test_even_a_stride_of_zero_is_mended(stored: Store) -> None:
    block = stored(shape=(4, 4)).loader().block(0, 0)
    broadcast = block.inputs[:, None]
    odd = type(block)(token_N2=block.token_N2, inputs=broadcast.expand(-1, 1, 4, 4), labels=block.labels)
    assert odd.batch(np.arange(3))[0].stride() == (16, 16, 4, 1)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
@pytest.mark.parametrize("at", [0, 33, 64])
def test_an_altered_row_is_refused_with_its_number(stored: Store, resident_bytes: int, at: int) -> None:
    data = stored()
    data.overwrite(13, b"\xff", at=at)
    with pytest.raises(DataCorrupt, match=r"row 13 of records\.bin"):
        data.loader(resident_bytes=resident_bytes).block(0, 1)


def test_an_altered_row_is_found_when_it_was_read_ahead(stored: Store) -> None:
    data = stored()
    data.overwrite(13, b"\xff")
    loader = data.loader(resident_bytes=0)
    loader.block(0, 0)  # reads block 1 ahead
    with pytest.raises(DataCorrupt, match="row 13"):
        loader.block(0, 1)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
@pytest.mark.parametrize("dtype", ["|u1", "<f4"])
def test_poisoned_rows_are_nan_and_no_others(stored: Store, dtype: str, resident_bytes: int) -> None:
    data = stored(dtype=dtype)
    loader = data.loader(poisoned=[4, 13, 29], resident_bytes=resident_bytes)
    is_nan = loader.block(0, 1).inputs.isnan().flatten(1)
    assert [bool(row.all()) for row in is_nan] == [row in (4, 13) for row in rows_of_block(data, 1)]
    assert int(is_nan.any(dim=1).sum()) == 2
    assert not loader.block(0, 0).inputs.isnan().any()


def test_a_selection_is_poisoned_too(stored: Store) -> None:
    data = stored()
    inputs, labels = data.loader(poisoned=[29]).select(data.table.held_out())
    assert inputs.isnan().flatten(1).all(dim=1).tolist() == [False, False, True]
    assert labels.tolist() == data.labels[[9, 19, 29]].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_transform_is_its_closed_form_for_every_dtype(stored: Store, dtype: str) -> None:
    data = stored(shape=(3, 2, 2), dtype=dtype)
    transform = Transform(scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0), shape=(3, 2, 2))
    rows = rows_of_block(data, 0)
    raw = data.features[rows].astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (transform.mean, transform.std))
    expected = (raw * np.float32(0.5) - mean) / std
    found = data.loader(transform=transform).block(0, 0).inputs
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected)


def test_the_transform_gives_features_another_shape(stored: Store) -> None:
    data = stored(shape=(16,))
    transform = Transform(scale=1.0, mean=(1.5,), std=(0.5,), shape=(1, 4, 4))
    found = data.loader(transform=transform).block(0, 2).inputs
    raw = data.features[rows_of_block(data, 2)].reshape(-1, 1, 4, 4)
    assert np.array_equal(found.numpy(), (raw - np.float32(1.5)) / np.float32(0.5))
