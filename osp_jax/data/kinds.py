"""What an input is: an image, uint8 pixels `(height, width, channels)`, or a text, uint16 token ids `(length,)`."""

from collections.abc import Sequence

import numpy as np

SPECIAL_TOKENS = ("[PAD]", "[UNK]")
"""The first ids of every vocabulary: padding, and what is no token of it."""

PAD = SPECIAL_TOKENS.index("[PAD]")
UNKNOWN = SPECIAL_TOKENS.index("[UNK]")
MOST_TOKENS = 2**16
"""The largest vocabulary: ids are stored in 16 bits, and float32 holds each of them exactly."""


def is_text(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape, without the batch, are texts."""
    return len(shape) == 1


def stored_dtype(shape: Sequence[int]) -> np.dtype:
    """Of inputs of this shape as a data set holds them."""
    return np.dtype(np.uint16 if is_text(shape) else np.uint8)


def channels_of(shape: Sequence[int]) -> int:
    """How many numbers the mean and the deviation of the normalisation have: none for texts, which have none."""
    return 0 if is_text(shape) else shape[-1]
