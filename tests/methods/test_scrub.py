"""SCRUB: the loss by hand, the order of its epochs, and the effect on the class."""

import jax
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module
from osp_jax.methods.scrub import Scrub, schedule, scrub_loss
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables

SMALL = {"learning_rate": 0.005, "batch_size": 64}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_weighs_cross_entropy_and_divergence_from_the_teacher(digits):
    preparation = Preparation(digits.preparation.mean, digits.preparation.std)
    train, indices, temperature = digits.dataset.train, np.array([5, 40, 41]), 4.0
    params, rest = split_variables(digits.model)
    loss = scrub_loss(in_train_mode(digits.model), digits.model.apply, preparation)

    def value(gamma, alpha):
        batch = {"indices": indices, "gamma": gamma, "alpha": alpha}
        given = train.images, train.labels, digits.model.variables, temperature
        return loss(params, rest, batch, jax.random.key(0), *given)[0]

    inputs = ((train.images[indices] / 255 - np.array(preparation.mean)) / np.array(preparation.std)).astype(np.float32)
    student, _ = linen_module(digits.model).apply(digits.model.variables, inputs, True, mutable=["batch_stats"])
    teacher = digits.model.apply(digits.model.variables, inputs)
    cross_entropy = -np.mean(log_softmax(student)[np.arange(3), train.labels[indices]])
    target, output = log_softmax(teacher / temperature), log_softmax(student / temperature)
    divergence = 16 * np.mean((np.exp(target) * (target - output)).sum(-1))
    assert divergence > 0.01
    np.testing.assert_allclose(value(0.0, -1.0), -divergence, rtol=1e-4)
    np.testing.assert_allclose(value(0.9, 0.5), 0.9 * cross_entropy + 0.5 * divergence, rtol=1e-4)


def test_the_first_epochs_begin_with_the_forgotten_images_and_the_rate_falls_after_the_named_epochs():
    method = Scrub(epochs=3, max_epochs=2, learning_rate=1.0, decay_after="1,2", batch_size=4)
    steps = schedule(np.arange(2), np.arange(10, 18), method, jax.random.key(0))
    forgotten = (steps["indices"] < 10).all(1)
    np.testing.assert_array_equal(forgotten, [True, False, False, True, False, False, False, False])
    np.testing.assert_array_equal((steps["indices"] >= 10).all(1), ~forgotten)
    np.testing.assert_array_equal(steps["alpha"], np.where(forgotten, -1, method.alpha))
    np.testing.assert_array_equal(steps["gamma"], np.where(forgotten, 0, method.gamma))
    np.testing.assert_allclose(steps["rate"], [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 7), marks=pytest.mark.slow)])
def test_it_forgets_and_keeps_the_others(digits, forget):
    before = digits.accuracies(digits.model, forget)
    model, data = digits.forget("scrub", forget, **SMALL)
    after = digits.accuracies(model, forget)
    assert before[0] > 0.9
    assert after[0] < 0.1
    assert after[1] > before[1] - 0.05
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, digits.model.variables)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"temperature": 0}, {"decay_after": "soon"}, {"gamma": -1}])
def test_a_setting_that_cannot_be_used_is_an_input_error(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Scrub(**bad)
