"""Image files of a user: what their headers say, and their pixels as 8 bits of one or three channels.

What torchvision's `ImageFolder` does is done here too: transparency is dropped, of several frames or pages the first is
taken, and the orientation that a camera wrote into EXIF is not applied. Images of 16 bits are scaled to 8 (the lower 8
bits are dropped), where Pillow's `convert` would turn most of them white.
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
_NAMES = {"MPO": "JPEG"}  # of several pictures, as some cameras write them
_GREY = ("1", "L", "LA", "La")
_MOST_PIXELS = 178_956_970  # above which Pillow refuses an image, as it may be made to exhaust memory

# Of damaged metadata, unusual palettes and large images; what matters of these is an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Header(NamedTuple):
    """What a file says of its image; `grey`: it is stored without colours; `deep`: with 16 bits a pixel."""

    width: int
    height: int
    grey: bool
    deep: bool
    format: str


def read_header(path: str) -> Header:
    """Of the image in the file `path`; no pixel is decoded.

    Raises:
      InputError: it cannot be read, or is no image.
    """
    with _opened(path) as image:
        deep = _is_deep(image)
        grey = deep or image.mode in _GREY
        return Header(*image.size, grey, deep, _NAMES.get(image.format, image.format))


def read_image(path: str, channels: int) -> Image.Image:
    """The image in the file `path`, of 8 bits in one or three channels.

    Raises:
      InputError: it cannot be read, is damaged, or is of a kind that has no 8 bits.
    """
    with _opened(path) as image:
        if _is_deep(image):
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        elif image.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are not of 8 or 16 bits, but of Pillow's mode {image.mode}")
        elif image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # of which the next step drops what is transparent
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
    """Older versions of Pillow give grey images of 16 bits as 32, as all do of the PPM family."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
