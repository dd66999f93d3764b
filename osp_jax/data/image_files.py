"""Image files of a user: their headers, and their pixels as 8 bits in one or three channels.

As in torchvision's `ImageFolder`, transparency is dropped, only the first of several frames or pages is read, and the
EXIF orientation of a camera is not applied. Images of 16 bits are scaled to 8 (the lower 8 bits are dropped), where
Pillow's `convert` would turn most pixels white.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from osp_jax.data.stored import DAMAGE
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.system_errors import code_of

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_NAMES = {"MPO": "JPEG"}  # files of several pictures from some cameras
_GREY = ("1", "L", "LA", "La")
_MOST_PIXELS = 178_956_970  # Pillow refuses larger images, which may be made to exhaust memory

# Silences warnings about damaged metadata, unusual palettes and large images; relevant problems are errors.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Header(NamedTuple):
    """The header of an image file; `grey`: stored without colours; `deep`: with 16 bits per channel."""

    width: int
    height: int
    grey: bool
    deep: bool
    format: str


def read_header(path: str) -> Header:
    """Reads the header of the image file `path`, without decoding pixels.

    Raises:
      InputError: it cannot be read, or is not an image.
    """
    with _opened(path) as image:
        deep = _is_deep(image)
        grey = deep or image.mode in _GREY
        return Header(*image.size, grey, deep, _NAMES.get(image.format, image.format))


def read_image(path: str, channels: int) -> Image.Image:
    """Reads the image file `path` as 8 bits in one or three channels.

    Raises:
      InputError: it cannot be read, is damaged, or has a mode that does not convert to 8 bits.
    """
    with _opened(path) as image:
        if _is_deep(image):
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        elif image.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are not of 8 or 16 bits, but of Pillow's mode {image.mode}")
        elif image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # the next step drops the transparency
        return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError(f"it has {image.width}x{image.height} pixels")
            yield image
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            if code_of(error) and not isinstance(error, PermissionError):
                raise
            remedy = "let your user read it" if isinstance(error, PermissionError) else "restore or remove it"
            raise InputError(f"the image {shown(path, 300)} cannot be read ({error.strerror}); {remedy}") from error
        raise InputError(
            f"{shown(path, 300)} {_reason(path, error)}; delete it, or replace it by a whole one"
        ) from error


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        empty = not os.path.getsize(path)
        return "is empty (0 bytes)" if empty else f"is damaged, or no image of the formats {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"is too large an image ({' '.join(str(error).split())[:120]})"
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"is damaged, or no image of a kind that can be read ({reason})"


def _is_deep(image: Image.Image) -> bool:
    """Older versions of Pillow return 16-bit grey images as 32-bit, as all versions do for the PPM family."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
