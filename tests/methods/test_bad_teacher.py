"""Bad teaching: the loss by hand, the images it uses, and its effect on the class."""

import jax
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module
from osp_jax.methods.bad_teacher import BadTeacher, teachers_loss
from osp_jax.networks import init_variables
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables

SMALL = {"learning_rate": 0.003, "epochs": 3, "batch_size": 64}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_a_forgotten_image_follows_the_random_network_and_a_retained_one_the_original(digits):
    preparation = Preparation(digits.preparation.mean, digits.preparation.std)
    train, batch = digits.dataset.train, {"indices": np.array([5, 40, 41]), "forgotten": np.array([True, False, False])}
    random = init_variables(linen_module(digits.model), digits.dataset.image_shape, jax.random.key(7))
    state = split_variables(digits.model)
    loss = teachers_loss(in_train_mode(digits.model), digits.model.apply, preparation)
    value, _ = loss(*state, batch, jax.random.key(0), train.images, digits.model.variables, random, 2.0)
    inputs = train.images[batch["indices"]] / 255 - np.array(preparation.mean)
    inputs = (inputs / np.array(preparation.std)).astype(np.float32)
    student, _ = linen_module(digits.model).apply(digits.model.variables, inputs, True, mutable=["batch_stats"])
    bad, good = (digits.model.apply(teacher, inputs) for teacher in (random, digits.model.variables))
    target, output = log_softmax(np.stack([bad[0], good[1], good[2]]) / 2), log_softmax(student / 2)
    np.testing.assert_allclose(value, np.mean(np.exp(target) * (target - output)), rtol=1e-4)


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 7), marks=pytest.mark.slow)])
def test_it_forgets_and_keeps_the_others(digits, forget):
    before = digits.accuracies(digits.model, forget)
    model, _ = digits.forget("bad-teacher", forget, **SMALL)
    after = digits.accuracies(model, forget)
    assert before[0] > 0.9
    assert after[0] < 0.1
    assert after[1] > before[1] - 0.1
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, digits.model.variables)


def test_it_sees_all_forgotten_images_and_the_asked_share_of_the_retained_ones(digits):
    _, data = digits.forget("bad-teacher", (3,), retain_fraction=0.25, epochs=0)
    seen, labels = data.seen(), digits.dataset.train.labels
    assert seen.pop("3") == (labels == 3).sum()
    assert sum(seen.values()) == pytest.approx(0.25 * (labels != 3).sum(), rel=0.02)


@pytest.mark.parametrize("bad", [{"temperature": 0}, {"retain_fraction": 1.5}, {"batch_size": 0}])
def test_a_setting_that_cannot_be_used_is_an_input_error(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        BadTeacher(**bad)
