"""The reader of CIFAR-10's PNG sheets: the layout, sheets and labels that do not fit, and damaged bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.sheets import noise, png, write_folder, write_sheet
from worker.data.sources import SourceOptions, SourceRefused, SourceTable, detect_format, read_source


def read(folder: Path, **options: object) -> SourceTable:
    return read_source(str(folder), options=SourceOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("spelling", ["labels", "lables"])
def test_every_row_of_a_sheet_is_an_image_with_its_channels_first(tmp_path: Path, spelling: str) -> None:
    images, labels = write_folder(tmp_path, spelling=spelling)
    assert detect_format(str(tmp_path)) == "sheets"
    table = read(tmp_path)
    assert (table.features.shape, table.features.dtype) == ((7, 3, 32, 32), np.uint8)
    assert np.array_equal(table.features, images)
    assert table.labels.tolist() == labels
    assert table.record_ids == [*(f"train-{n}" for n in range(5)), "test-0", "test-1"]
    assert table.subject_ids == table.record_ids
    assert table.held_out is not None
    assert table.held_out.tolist() == [False] * 5 + [True] * 2


def test_a_pixel_written_by_hand_is_found_at_its_place(tmp_path: Path) -> None:
    write_folder(tmp_path, sizes=(2,), num_test=0)
    sheet = np.zeros((2, 1024, 3), np.uint8)
    sheet[1, 7 * 32 + 5] = (11, 22, 33)  # second image, row 7, column 5: red, green, blue
    (tmp_path / "data_batch_1.png").write_bytes(png(sheet))
    features = read(tmp_path).features
    assert features[1, :, 7, 5].tolist() == [11, 22, 33]
    assert features.sum() == 66


def test_sheets_follow_their_numbers_and_not_their_names(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, sizes=(1,) * 11, num_test=0)
    assert np.array_equal(read(tmp_path).features, images)


def test_without_a_test_sheet_there_is_no_split(tmp_path: Path) -> None:
    write_folder(tmp_path, num_test=0)
    assert read(tmp_path).held_out is None


def test_subjects_may_own_consecutive_records(tmp_path: Path) -> None:
    write_folder(tmp_path)
    owners = read(tmp_path, records_per_subject=3).subject_ids
    assert owners == [f"synthetic-00000{n // 3}" for n in range(7)]


def test_subjects_may_come_from_a_csv(tmp_path: Path) -> None:
    write_folder(tmp_path, sizes=(2,), num_test=1)
    path = tmp_path / "subjects.csv"
    path.write_text("subject_id,note,record_id\nkim,x,test-0\nlee,,train-0\nkim,,train-1\n")
    assert read(tmp_path, subjects_path=path).subject_ids == ["lee", "kim", "kim"]
    with pytest.raises(SourceRefused, match="records_per_subject is for sources without one"):
        read(tmp_path, subjects_path=path, records_per_subject=2)


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no first sheet": (drop("data_batch_1.png"), r"data_batch_1\.png: no such file"),
    "a gap": (
        lambda folder: write_sheet(folder / "data_batch_4.png", noise(1)),
        r"data_batch_3\.png: no such file",
    ),
    "no last sheet": (
        drop("data_batch_2.png"),
        r"train_lables\.json: 5 labels for 3 rows in data_batch_1\.png$",
    ),
    "no labels": (drop("train_lables.json"), r"train_labels\.json: no such file"),
    "no test sheet": (drop("test_batch.png"), r"test_batch\.png: no such file"),
    "no test labels": (drop("test_lables.json"), r"test_labels\.json: no such file"),
    "too few labels": (
        put("train_lables.json", b"[1, 2, 3, 4]"),
        r"train_lables\.json: 4 labels for 5 rows in data_batch_1\.png, data_batch_2\.png",
    ),
    "too many labels": (put("test_lables.json", b"[1, 2, 3]"), r"test_lables\.json: 3 labels for 2 rows"),
    "a label too large": (
        put("train_lables.json", b"[1, 2, 10, 4, 5]"),
        r"train_lables\.json: label in row 2 is 10, a whole number from 0 to 9 is needed",
    ),
    "a label below 0": (put("test_lables.json", b"[0, -1]"), r"test_lables\.json: label in row 1 is -1,"),
    "half a label": (put("test_lables.json", b"[0, 1.5]"), "label in row 1 is 1.5,"),
    "a yes for a label": (put("test_lables.json", b"[true, 1]"), "label in row 0 is True,"),
    "a word for a label": (put("test_lables.json", b'[1, "cat"]'), "label in row 1 is 'cat',"),
    "labels by name": (put("test_lables.json", b'{"a": 1}'), r"test_lables\.json: a JSON list of labels"),
    "labels that end early": (put("test_lables.json", b"[1,"), r"test_lables\.json: Expecting value"),
    "labels in depth": (put("test_lables.json", b"[" * 200_000), r"test_lables\.json: "),
    "labels in another code": (put("test_lables.json", b"[\xff]"), r"test_lables\.json: "),
    "a narrow sheet": (
        put("test_batch.png", png(np.zeros((2, 1023, 3), np.uint8))),
        r"test_batch\.png: is 1023 wide, rows of 1024 pixels are needed",
    ),
    "a gray sheet": (
        put("data_batch_2.png", png(np.zeros((2, 1024, 1), np.uint8))),
        r"data_batch_2\.png: its pixels are L, 8-bit RGB is needed",
    ),
    "a sheet with opacity": (put("data_batch_2.png", png(np.zeros((2, 1024, 4), np.uint8))), "are RGBA"),
    "an empty sheet": (put("data_batch_2.png", b""), r"data_batch_2\.png: not a PNG file"),
    "another format": (put("data_batch_2.png", b"GIF89a" + bytes(40)), r"data_batch_2\.png: not a PNG file"),
    "a promised planet": (
        put("data_batch_2.png", png(np.zeros((1, 1024, 3), np.uint8))[:20] + b"\x7f\xff\xff\xff"),
        r"data_batch_2\.png: ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_file_and_row(tmp_path: Path, name: str) -> None:
    change, fault = WRONG[name]
    write_folder(tmp_path)
    change(tmp_path)
    with pytest.raises(SourceRefused, match=fault) as refused:
        read_source(str(tmp_path), format="sheets")
    assert "\n" not in str(refused.value)
    assert str(refused.value).count(str(tmp_path)) == 1


def test_one_sheet_is_not_the_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(SourceRefused, match=r"data_batch_1\.png: is one file, the folder of all sheets"):
        read(tmp_path / "data_batch_1.png")


def test_no_flipped_bit_and_no_lost_tail_passes_for_an_image(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, sizes=(1,), num_test=0)
    images[:] = images // 64 * 64
    write_sheet(tmp_path / "data_batch_1.png", images)
    path = tmp_path / "data_batch_1.png"
    whole = path.read_bytes()
    draw = np.random.default_rng(2)
    places = [
        *range(60),
        *draw.integers(60, len(whole) - 20, size=60).tolist(),
        *range(len(whole) - 20, len(whole)),
    ]
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in places]
    outcomes = [outcome_of(path, data) for data in [whole, *damaged, *(whole[:at] for at in places)]]
    read_as_written = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
    assert all(np.array_equal(features, images) for features in read_as_written)
    assert all(str(path) in str(outcome) for outcome in outcomes if isinstance(outcome, SourceRefused))
    assert 1 <= len(read_as_written) <= 1 + 2 * 12  # whole, or hurt only in the 12 bytes that mark the end


def outcome_of(path: Path, data: bytes) -> np.ndarray | SourceRefused:
    path.write_bytes(data)
    try:
        return read_source(str(path.parent), format="sheets").features
    except SourceRefused as refused:
        return refused


def test_a_column_name_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(SourceRefused, match="has no columns, so none can be named: 'person'"):
        read(tmp_path, subject_column="person")
