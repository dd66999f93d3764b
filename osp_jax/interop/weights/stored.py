"""Arrays that are stored in a file as plain bytes: their positions, and replacement of some of them in place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
      dtype: dtype of the array.
      shape: shape of the array.
      pieces: (offset in the file, number of bytes) of its bytes in C order, usually one piece.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]


def array_of(data: bytes, stored: Stored) -> np.ndarray:
    """A copy of a stored array of the file whose content is `data`."""
    content = b"".join(data[offset : offset + size] for offset, size in stored.pieces)
    return np.frombuffer(bytearray(content), stored.dtype).reshape(stored.shape)


def fits(dtype: np.dtype, shape: tuple[int, ...], size: int) -> bool:
    """Whether `size` bytes hold an array of this dtype and shape, and NumPy supports the shape."""
    largest = dtype.itemsize * math.prod(max(axis, 1) for axis in shape)
    return len(shape) <= 32 and largest < 2**62 and dtype.itemsize * math.prod(shape) == size


def replaced(data: bytes, layout: Mapping[str, Stored], changes: Mapping[str, np.ndarray]) -> bytearray:
    """The content of the file with new values in the arrays of `changes`, whose shapes are the stored ones."""
    new = bytearray(data)
    for key, value in changes.items():
        stored = layout[key]
        content, start = np.ascontiguousarray(value, stored.dtype).tobytes(), 0
        for offset, size in stored.pieces:
            new[offset : offset + size] = content[start : start + size]
            start += size
    return new
