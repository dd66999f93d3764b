"""Sums of gradients over images, compared with a linear network's explicit gradients, in both modes of batch norm."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.methods.parts.importance import filled_batches, loss_gradient, mean_squared_gradient, smallest, summed
from osp_jax.training.descent import in_eval_mode, in_train_mode, split_variables
from osp_jax.training.loss import cross_entropy
from tests.methods.linear import (
    MODEL,
    PREPARATION,
    assert_close,
    gradient,
    images_of,
    mean_of_squares,
    request,
    runs,
)

SPLIT = images_of((5, 3, 3))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_gradient_of_a_batch_is_squared_after_its_mean_and_a_short_batch_counts_as_one(batch_size):
    indices = np.random.default_rng(0).permutation(11)
    found = mean_squared_gradient(MODEL, request(SPLIT, (1,)), indices, batch_size)
    assert_close(found["params"], mean_of_squares(SPLIT, runs(indices, batch_size)))


def test_gradients_of_batches_add_up():
    batches = filled_batches(np.arange(11), 4)
    found = summed(loss_gradient(in_eval_mode(MODEL), PREPARATION), MODEL, batches, SPLIT.images, SPLIT.labels)
    expected = [gradient(SPLIT, batch, SPLIT.labels[batch]) for batch in runs(np.arange(11), 4)]
    assert_close(found["params"], jax.tree.map(lambda *leaves: sum(leaves), *expected))


def test_a_filled_batch_repeats_images_at_weight_zero():
    batches = filled_batches(np.array([7, 8, 9]), 2)
    assert batches["indices"].tolist() == [[7, 8], [9, 7]]
    assert batches["weights"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("train", [False, True])
def test_the_gradient_is_taken_in_the_mode_asked_for(digits, train):
    train_split, batch = digits.dataset.train, np.arange(32)
    batches = {"indices": batch[None], "weights": np.ones((1, 32), np.float32)}
    modes = in_eval_mode(digits.model), in_train_mode(digits.model)
    term = loss_gradient(modes[train], digits.preparation)
    found = summed(term, digits.model, batches, train_split.images, train_split.labels)
    inputs = digits.preparation.plain(jnp.asarray(train_split.images[batch]))

    @partial(jax.jit, static_argnums=1)
    def loss(step, training):  # along the gradient found
        params, rest = split_variables(digits.model)
        params = jax.tree.map(lambda p, d: p + step * d, params, found)
        logits, _ = modes[training](params, rest, inputs, jax.random.key(0))
        return cross_entropy(logits, train_split.labels[batch])

    square = float(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(found)))
    step = 1e-2 / np.sqrt(square)
    slopes = [float(loss(step, mode) - loss(-step, mode)) / (2 * step) for mode in (train, not train)]
    assert slopes[0] == pytest.approx(square, rel=0.02)
    assert slopes[1] != pytest.approx(square, rel=0.1)


def test_smallest_marks_that_many_of_the_smallest_entries():
    values = np.array([[3.0, -1.0, 2.0], [2.0, 0.0, 5.0]])
    assert np.array(smallest(values, 3)).tolist() == [[False, True, True], [False, True, False]]
    assert not smallest(values, 0).any()
    assert smallest(values, 6).all()
