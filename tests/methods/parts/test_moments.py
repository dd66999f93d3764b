"""Sums over batches: every image once, and separate randomness for each batch."""

import jax
import numpy as np
import pytest

from osp_jax.methods.parts.moments import sum_over_batches


@pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
def test_a_sum_over_batches_counts_every_index_once(batch_size):
    indices = np.array([3, 7, 1, 8, 2, 20, 11, 5, 4])
    counts = sum_over_batches(
        lambda batch, weights, key: np.bincount(batch, weights, 21), indices, batch_size, jax.random.key(0)
    )
    np.testing.assert_array_equal(counts, np.bincount(indices, minlength=21))


def test_each_batch_has_its_own_key():
    keys = []
    sum_over_batches(lambda *given: keys.append(given[2]) or 0, np.arange(4), 2, jax.random.key(0))
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 2
