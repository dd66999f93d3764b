"""Gradient ascent: its loss by hand, the images it uses, and its effect on the class and the others."""

import jax
import numpy as np
import pytest

from osp_jax.methods.gradient_ascent import GradientAscent, ascent_loss
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables
from tests.methods.loss_by_hand import cross_entropy_by_hand, without_augmentation

FAST = {"epochs": 3, "learning_rate": 0.01, "batch_size": 64}


def test_the_loss_is_minus_the_cross_entropy_in_train_mode(digits):
    train, batch = digits.dataset.train, np.array([5, 40, 41])
    loss = ascent_loss(in_train_mode(digits.model), without_augmentation(digits))
    given = *split_variables(digits.model), {"indices": batch}, jax.random.key(0)
    value, _ = loss(*given, train.images, train.labels)
    np.testing.assert_allclose(value, -cross_entropy_by_hand(digits, batch, train=True), rtol=1e-4)


def test_it_forgets_the_class_at_some_cost_and_sees_forgotten_images_only(digits):
    before = digits.accuracies(digits.model, (3,))
    model, data = digits.forget("gradient-ascent", (3,), **FAST)
    forget, retain = digits.accuracies(model, (3,))
    assert before[0] > 0.9
    assert forget < 0.1
    assert 0.5 < retain < before[1]
    assert data.seen() == {"3": (digits.dataset.train.labels == 3).sum()}


def test_two_classes_are_forgotten_at_once(digits):
    model, data = digits.forget("gradient-ascent", (3, 7), **FAST)
    assert digits.accuracies(model, (3, 7))[0] < 0.3
    assert set(data.seen()) == {"3", "7"}


def test_it_does_not_change_what_it_was_given(digits):
    before = jax.tree.map(np.array, digits.model.variables)
    digits.forget("gradient-ascent", (3,), **FAST)
    jax.tree.map(np.testing.assert_array_equal, digits.model.variables, before)


@pytest.mark.parametrize("options", [{"epochs": -1}, {"learning_rate": -1.0}, {"batch_size": 0}, {"momentum": 1.5}])
def test_an_option_out_of_range_is_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        GradientAscent(**options)
