"""Kinds of input: an image, uint8 pixels `(height, width, channels)`, or a text, uint16 token ids `(length,)`."""

from collections.abc import Sequence

import numpy as np

SPECIAL_TOKENS = ("[PAD]", "[UNK]")
"""The first ids of every vocabulary: padding, and unknown tokens."""

PAD = SPECIAL_TOKENS.index("[PAD]")
UNKNOWN = SPECIAL_TOKENS.index("[UNK]")
MOST_TOKENS = 2**16
"""The largest vocabulary: ids are stored in 16 bits, and float32 represents each exactly."""


def is_text(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape, without the batch, are texts."""
    return len(shape) == 1


def stored_dtype(shape: Sequence[int]) -> np.dtype:
    """The dtype of stored inputs of this shape."""
    return np.dtype(np.uint16 if is_text(shape) else np.uint8)


def channels_of(shape: Sequence[int]) -> int:
    """The number of channels to normalise: 0 for texts."""
    return 0 if is_text(shape) else shape[-1]
