"""Batches of one size."""

import numpy as np
import pytest

from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split

SPLIT = Split(np.arange(10 * 2 * 2, dtype=np.uint8).reshape(10, 2, 2, 1) + 1, np.arange(10, dtype=np.int32) % 3)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 100])
def test_all_batches_have_one_size_and_together_the_chosen_images(batch_size):
    indices = np.array([9, 2, 2, 5, 0, 7, 1])
    batches = list(index_batches(SPLIT, indices, batch_size))
    assert {images.shape for images, _ in batches} == {({100: 8}.get(batch_size, batch_size), 2, 2, 1)}
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(images[labels >= 0], SPLIT.images[indices])
    np.testing.assert_array_equal(labels[labels >= 0], SPLIT.labels[indices])


def test_what_fills_the_last_batch_up_is_blank_and_has_no_class():
    *_, (images, labels) = index_batches(SPLIT, np.arange(5), 4)
    assert labels.tolist() == [SPLIT.labels[4], -1, -1, -1]
    assert not images[1:].any()


def test_no_images_make_no_batches():
    assert list(index_batches(SPLIT, np.arange(0), 4)) == []
