"""Boundary shrink: the new labels and the loss by hand, and the effect on the class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import from_linen, linen_module
from osp_jax.methods.boundary_shrink import BoundaryShrink, nearest_labels
from osp_jax.methods.parts.targets import label_loss
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_eval_mode, in_train_mode, split_variables

SMALL = {"learning_rate": 1e-3, "labels": "retained", "train": False}


class Linear(nn.Module):
    """Its gradient can be written down."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(4, name="head")(images.reshape(len(images), -1))


@pytest.mark.parametrize("excluded", [(), (1,), (1, 2)])
def test_the_new_label_is_the_class_of_the_image_moved_up_its_loss(excluded):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 3, 3, 2), dtype=np.uint8), rng.integers(0, 4, 50)
    kernel, bias = rng.normal(size=(18, 4)), rng.normal(size=4)
    preparation, bound = Preparation((0.4, 0.5), (0.2, 0.3), pad=1, flip=True), 0.1
    params = {"head": {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}}
    variables = {"params": params, "batch_stats": {}}
    model = from_linen(Linear(), variables, mean=(0.4, 0.5), std=(0.2, 0.3), class_names=list("abcd"))
    mask = np.isin(np.arange(4), excluded).astype(np.float32)
    got = nearest_labels(model.apply, preparation)(variables, images, labels, bound, mask)

    def logits(pixels):
        return ((pixels / 255 - [0.4, 0.5]) / [0.2, 0.3]).reshape(50, -1) @ kernel + bias

    probabilities = np.exp(logits(images)) / np.exp(logits(images)).sum(1, keepdims=True)
    gradient = (probabilities - np.eye(4)[labels]) @ kernel.T
    moved = np.clip(np.round(images + 25.5 * np.sign(gradient).reshape(images.shape)), 0, 255)
    allowed = np.where(mask > 0, -np.inf, logits(moved))
    clear = np.sort(allowed, axis=1)[:, -1] - np.sort(allowed, axis=1)[:, -2] > 0.02
    assert clear.sum() > 40
    assert (allowed.argmax(1) != logits(images).argmax(1)).sum() > 5
    np.testing.assert_array_equal(np.asarray(got)[clear], allowed.argmax(1)[clear])


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_is_the_cross_entropy_of_the_images_with_the_labels_of_the_batch(digits, train):
    preparation = Preparation(digits.preparation.mean, digits.preparation.std, pad=1)
    images, batch = digits.dataset.train.images, {"indices": np.array([5, 40, 41]), "labels": np.array([1, 2, 7])}
    state = split_variables(digits.model)
    forward = in_train_mode(digits.model) if train else in_eval_mode(digits.model)
    value, rest = label_loss(forward, preparation)(*state, batch, jax.random.key(0), images)
    inputs = (images[batch["indices"]] / 255 - np.array(preparation.mean)) / np.array(preparation.std)
    logits, _ = linen_module(digits.model).apply(
        digits.model.variables, inputs.astype(np.float32), train, mutable=["batch_stats"]
    )
    logits = np.asarray(logits, np.float64)
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, batch["labels"], strict=True)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
    assert np.array_equal(*(tree["batch_stats"]["bn1"]["mean"] for tree in (rest, state[1]))) != train


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 7), marks=pytest.mark.slow)])
def test_it_forgets_keeps_most_of_the_others_and_sees_forgotten_images_alone(digits, forget):
    before = digits.accuracies(digits.model, forget)
    model, data = digits.forget("boundary-shrink", forget, **SMALL)
    after = digits.accuracies(model, forget)
    assert before[0] > 0.9
    assert after[0] < 0.1
    assert after[1] > before[1] - 0.2
    assert set(data.seen()) == set(map(str, forget))
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, digits.model.variables)


@pytest.mark.parametrize("bad", [{"labels": "nearest"}, {"bound": 2}, {"epochs": -1}])
def test_a_setting_that_cannot_be_used_is_an_input_error(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        BoundaryShrink(**bad)
