"""Batches of one size from a split, selected by indices; images of label -1 pad the last batch."""

from collections.abc import Iterator

import numpy as np

from osp_jax.data.sources import Split


def index_batches(split: Split, indices: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (images uint8 `(batch, h, w, c)` or texts uint16 `(batch, length)`, labels int32 `(batch,)`) in the order
    of `indices`.

    If there are fewer indices than `batch_size`, the batch size is the smallest power of two that holds them, so that
    index sets of similar size share a compiled program.
    """
    batch_size = min(batch_size, 1 << max(len(indices) - 1, 0).bit_length())
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        fill = batch_size - len(chosen)
        images = split.images[chosen]
        images = np.pad(images, ((0, fill), *[(0, 0)] * (images.ndim - 1)))
        yield images, np.pad(split.labels[chosen], (0, fill), constant_values=-1)
