"""Fine-tuning with a falling L1 penalty: the loss and its weight by hand, and the effect on weights and class."""

import jax
import numpy as np
import pytest

from osp_jax.methods.l1_sparse import L1Sparse, penalty_weights, sparse_loss
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables
from tests.methods.loss_by_hand import cross_entropy_by_hand, without_augmentation

FAST = {"epochs": 5, "learning_rate": 0.1, "batch_size": 64}


def size(model) -> float:
    return sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(model.variables["params"]))


def test_the_loss_is_cross_entropy_plus_the_weighted_absolute_values_of_all_parameters(digits):
    train, batch = digits.dataset.train, np.array([5, 40, 41])
    loss = sparse_loss(in_train_mode(digits.model), without_augmentation(digits))
    given = {"indices": batch, "penalty": np.float32(0.01)}, jax.random.key(0), train.images, train.labels
    value, _ = loss(*split_variables(digits.model), *given)
    expected = cross_entropy_by_hand(digits, batch, train=True) + 0.01 * size(digits.model)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_the_weight_falls_by_epoch_and_is_zero_in_the_last_ones():
    np.testing.assert_allclose(penalty_weights(0.5, 4, 0), [0.5, 0.375, 0.25, 0.125])
    np.testing.assert_allclose(penalty_weights(0.5, 5, 3), [0.5, 0.25, 0, 0, 0])
    assert penalty_weights(0.5, 0, 0).shape == (0,)


def test_it_forgets_the_class_keeps_the_others_and_never_sees_a_forgotten_image(digits):
    model, data = digits.forget("l1-sparse", (3,), **FAST)
    forget, retain = digits.accuracies(model, (3,))
    assert forget < 0.1
    assert retain > 0.85
    assert "3" not in data.seen()


def test_a_heavier_penalty_leaves_smaller_parameters(digits):
    light, heavy = (digits.forget("l1-sparse", (3, 7), **FAST, alpha=alpha)[0] for alpha in (1e-5, 1e-3))
    assert size(heavy) < 0.85 * size(light)
    assert digits.accuracies(heavy, (3, 7))[0] < 0.2


@pytest.mark.parametrize("options", [{"alpha": -1e-4}, {"no_l1_epochs": 10}, {"no_l1_epochs": -1}, {"batch_size": 0}])
def test_an_option_out_of_range_is_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        L1Sparse(**options)
