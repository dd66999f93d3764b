"""An epoch of training batches from images that stay in their files, through Grain; the only module that uses Grain.

Each position in the epoch's order determines its image and crop, by the order, the seed and the epoch. So batches do
not depend on the number of processes and threads, and the state of an iterator is the number of its next batch, which a
checkpoint stores as its step.
"""

import os
from collections.abc import Iterator
from functools import partial
from itertools import chain, pairwise
from typing import Any

import jax
import numpy as np

from osp_jax.data.sources import Split
from osp_jax.data.stored import centre_square, random_area
from osp_jax.runtime.distributed import own_rows, place_rows
from osp_jax.runtime.errors import InputError


def require_grain() -> Any:
    """Imports Grain.

    Raises:
      InputError: it is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise InputError(f"data.stream needs Grain ({error}); install it: pip install 'osp_jax[stream]'") from error
    return grain


def pipeline(
    split: Split, order: np.ndarray, rows: np.ndarray, *, first: int, random_crops: bool, seed: int, epoch: int
) -> Any:
    """A Grain `IterDataset` of (images uint8 `(rows, size, size, c)`, labels int32 `(rows,)`), one batch per element.

    Args:
      split: its images are `StoredImages`.
      order: int32 `(steps, batch)`, the images of the epoch's batches.
      rows: `(rows,)`, the rows of each batch to read here.
      first: the first step.
      random_crops: whether to crop a random area, drawn by seed, epoch and position; else the central square.
    """
    grain = require_grain()
    places = np.arange(order.size).reshape(order.shape)[first:, rows].ravel()

    def load(place: int) -> tuple[np.ndarray, np.int32]:
        index = order.flat[place]
        crop = partial(random_area, rng=np.random.default_rng((seed, epoch, place))) if random_crops else centre_square
        return split.images.read(index, crop), split.labels[index]

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * len(rows)))
    return grain.MapDataset.source(places).map(load).to_iter_dataset(options).batch(len(rows))


def epoch_batches(split: Split, order: np.ndarray, **given: Any) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields (images, labels) of each batch of `order`, split over the devices in use; each process reads its own rows.

    One batch is transferred to the devices while the previous one is processed. `given` as in `pipeline`.
    """
    batches = iter(pipeline(split, order, own_rows(order.shape[1]), **given))
    try:
        for batch, _ in pairwise(chain(map(place_rows, batches), [None])):
            yield batch
    finally:
        batches.close()
