"""Images that stay in their files: each is read, decoded and resized when it is indexed."""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osp_jax.data.memory import image_bytes, require_memory
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.system_errors import code_of, system_errors

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the stored image
Area = Callable[[int, int], Box]  # from the width and height of an image

_SMALLEST_AREA, _LARGEST_RATIO, _TRIES = 0.08, 4 / 3, 10


# Pillow's errors for damaged images; other formats are decoded by other programs, or never used by TFDS.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raises `InputError` if a file of `folder` is found to be damaged in this context, and `OSError` if the system
    lacks file descriptors or memory to read it."""
    try:
        with system_errors(folder):
            yield
    except (OSError, ValueError) as error:
        if code_of(error):
            raise
        raise InputError(f"{folder} is damaged ({error}); delete it and prepare it again") from error


def record_of(source: Sequence[Any], index: int) -> Any:
    """`source[index]`, with an `image` and a `label`.

    Raises:
      ValueError: the record is damaged; the message has its number.
    """
    try:
        record = source[index]
    except Exception as error:  # array_record, protobuf and TFDS raise their own types
        if isinstance(error, MemoryError) or code_of(error):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"record {index}: {reason}") from error
    for field, kind in (("image", bytes), ("label", (int, np.integer))):
        if not isinstance(record[field], kind):
            raise ValueError(f"record {index} has no {field}")
    return record


def image_of(source: Sequence[Any], index: int, channels: int) -> tuple[Image.Image, Any, str]:
    """`source[index]` as (image of one or three channels, its record, the name of its format).

    Raises:
      ValueError: the record or the image is damaged; the message has its number.
    """
    record = record_of(source, index)
    try:
        return (decoded := decode(record["image"], channels))[0], record, decoded[1]
    except DAMAGE as error:
        raise ValueError(f"image {index}: {error}") from error


def decode(encoded: bytes, channels: int) -> tuple[Image.Image, str]:
    """The bytes of a record as (an image of one or three channels, the name of its format)."""
    with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are not of 8 bits, but {image.mode}")
        return image.convert("L" if channels == 1 else "RGB"), image.format or "unknown format"


def centre_square(width: int, height: int) -> Box:
    """The largest central square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_area(width: int, height: int, rng: np.random.Generator) -> Box:
    """A random rectangle of 8% to 100% of the image area, ratio 3:4 to 4:3 (Szegedy et al., 2015, arXiv 1409.4842).

    The ratio is uniform on a log scale. The first of ten draws that fits is returned; if none does, which happens only
    for long and narrow images, the largest central rectangle with a ratio of at most 4:3.
    """
    area = width * height * rng.uniform(_SMALLEST_AREA, 1, _TRIES)
    ratio = np.exp(rng.uniform(-math.log(_LARGEST_RATIO), math.log(_LARGEST_RATIO), _TRIES))
    sides = np.maximum(np.round(np.sqrt([area * ratio, area / ratio])), 1).astype(int)  # width and height x tries
    place = rng.uniform(size=2)
    fitting = np.flatnonzero((sides[0] <= width) & (sides[1] <= height))
    if len(fitting):
        wide, high = (int(side) for side in sides[:, fitting[0]])
        left, top = int(place[0] * (width - wide + 1)), int(place[1] * (height - high + 1))
    else:
        wide, high = min(width, round(height * _LARGEST_RATIO)), min(height, round(width * _LARGEST_RATIO))
        left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def cut(image: Image.Image, size: int, area: Area = centre_square) -> np.ndarray:
    """An area of an image, resized to uint8 `(size, size, channels)`."""
    pixels = np.asarray(image.resize((size, size), box=area(*image.size)))
    return pixels.reshape(size, size, -1)


class StoredImages:
    """Reads like a uint8 array `(n, size, size, channels)`, but loads only indexed images into memory.

    An index is any index of the first axis of an array: a number, a slice, numbers, or a mask. The same index returns
    the same pixels each time: the central square, resized.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, open_image: Callable[[int], Image.Image], count: int, size: int, channels: int, place: Path):
        """`open_image(i)` returns image `i` of `count`, of one or three channels; `place` locates them in errors."""
        self.shape = (count, size, size, channels)
        self._open_image, self._place = open_image, place

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """The size of all images in memory."""
        return math.prod(self.shape)

    def read(self, index: int, area: Area = centre_square) -> np.ndarray:
        """One image, uint8 `(size, size, channels)`, from an area of it.

        Raises:
          InputError: the file is damaged.
        """
        return cut(self._open_image(index), self.shape[1], area)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Images `key`, uint8 `(..., size, size, channels)`.

        Raises:
          InputError: the file is damaged, or the images exceed the memory of this machine.
        """
        chosen = np.asarray(np.arange(len(self))[key])
        require_memory(
            image_bytes(chosen.size, *self.shape[1:]),
            f"{chosen.size} images of {self._place}",
            "allow fewer (--retain_per_class, --forget_per_class) or lower data.image_size",
        )
        images = np.empty((chosen.size, *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            images[place] = self.read(int(chosen.flat[place]))

        with ThreadPoolExecutor() as pool:  # Pillow releases the GIL
            for _ in pool.map(fill, range(chosen.size)):
                pass
        return images.reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All images, in memory."""
        return np.asarray(self[:], dtype)


def read_labels(source: Sequence[Any], folder: Path) -> np.ndarray:
    """The stored labels `source[i]['label']`, int64 `(n,)`; reads every record once, without decoding images.

    Raises:
      InputError: a file is damaged.
    """

    def labels_from(start: int) -> list[int]:
        return [record_of(source, i)["label"] for i in range(start, min(start + 256, len(source)))]

    with readable(folder), ThreadPoolExecutor() as pool:
        parts = list(pool.map(labels_from, range(0, len(source), 256)))
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
