"""Writes CIFAR-10's PNG sheets, encoded here byte by byte, so that no reader's library is its own judge."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # gray, RGB, RGBA, as the PNG specification numbers them


def png(pixels: np.ndarray) -> bytes:
    """Return an 8-bit PNG of pixels (H, W, C)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return SIGNATURE + b"".join(chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def noise(num_images: int, *, seed: int = 0) -> np.ndarray:
    """Return images (N, 3, 32, 32) of noise."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, size=(num_images, 3, 32, 32), dtype=np.uint8)


def write_sheet(path: Path, images: np.ndarray) -> None:
    """Write images (N, 3, 32, 32), each as one row of 1024 pixels."""
    path.write_bytes(png(images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)))


def write_folder(
    folder: Path, *, sizes: tuple[int, ...] = (3, 2), num_test: int = 2, spelling: str = "lables"
) -> tuple[np.ndarray, list[int]]:
    """Write sheets of noise with labels; return all images and labels, training first."""
    images = noise(sum(sizes) + num_test)
    labels = [n % 10 for n in range(len(images))]
    starts = np.cumsum([0, *sizes])
    for index, size in enumerate(sizes):
        write_sheet(folder / f"data_batch_{index + 1}.png", images[starts[index] :][:size])
    (folder / f"train_{spelling}.json").write_text(json.dumps(labels[: sum(sizes)]))
    if num_test:
        write_sheet(folder / "test_batch.png", images[sum(sizes) :])
        (folder / f"test_{spelling}.json").write_text(json.dumps(labels[sum(sizes) :]))
    return images, labels
