"""UNSIR: noise and losses by hand, the two settings, and the effect on the class without its images."""

import jax
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module
from osp_jax.methods.unsir import Unsir, impair_examples, impair_loss, noise_loss, optimised_noise
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_eval_mode, in_train_mode, split_variables

SMALL = {"noise_images": 32, "batch_size": 64, "impair_rate": 0.01, "repair_rate": 0.003}
NOISE_ONLY = {"noise_images": 32, "noise_steps": 3, "impair_epochs": 0, "repair_epochs": 0, "retain_per_class": 4}


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels])


def test_noise_descends_minus_the_cross_entropy_of_its_class_plus_its_weighted_norm(digits):
    noise = np.random.default_rng(0).normal(size=(3, *digits.dataset.image_shape)).astype(np.float32)
    params, rest = split_variables(digits.model)
    for train, forward in enumerate((in_eval_mode(digits.model), in_train_mode(digits.model))):
        batch = {"label": np.int32(4), "penalty": 0.1}
        value, _ = noise_loss(forward)(noise, rest, batch, jax.random.key(0), params)
        logits = linen_module(digits.model).apply(digits.model.variables, noise, train, mutable=["batch_stats"])[0]
        norms = [np.sum(image.astype(np.float64) ** 2) for image in noise]
        np.testing.assert_allclose(value, 0.1 * np.mean(norms) - cross_entropy(logits, [4, 4, 4]), rtol=1e-5)


def test_impairing_learns_noise_where_there_is_some_and_images_elsewhere(digits):
    preparation, images = Preparation(digits.preparation.mean, digits.preparation.std), digits.dataset.train.images
    noise = np.random.default_rng(0).normal(size=(2, *digits.dataset.image_shape)).astype(np.float32)
    batch = {"indices": np.array([5, 0, 41]), "noise": np.array([-1, 1, -1]), "labels": np.array([2, 3, 8])}
    state = split_variables(digits.model)
    value, _ = impair_loss(in_train_mode(digits.model), preparation)(*state, batch, jax.random.key(0), images, noise)
    inputs = (images[[5, 0, 41]] / 255 - np.array(preparation.mean)) / np.array(preparation.std)
    inputs[1] = noise[1]
    logits, _ = linen_module(digits.model).apply(
        digits.model.variables, inputs.astype(np.float32), True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(value, cross_entropy(logits, batch["labels"]), rtol=1e-5)


@pytest.mark.parametrize(("settings", "forget"), [("as_released", (3,)), ("as_intended", (3, 7))])
def test_it_forgets_what_it_never_saw_and_keeps_the_others(digits, settings, forget):
    before = digits.accuracies(digits.model, forget)
    model, data = digits.forget("unsir", forget, settings=settings, retain_per_class=100, **SMALL)
    after = digits.accuracies(model, forget)
    assert before[0] > 0.9
    assert after[0] < 0.3
    assert after[1] > before[1] - 0.15
    assert data.seen() == {str(c): 100 for c in range(10) if c not in forget}
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, digits.model.variables)


def test_as_released_the_noise_moves_the_running_statistics_and_as_intended_nothing(digits):
    released, _ = digits.forget("unsir", (3,), settings="as_released", **NOISE_ONLY)
    intended, _ = digits.forget("unsir", (3,), settings="as_intended", **NOISE_ONLY)
    jax.tree.map(np.testing.assert_array_equal, intended.variables, digits.model.variables)
    jax.tree.map(np.testing.assert_array_equal, released.variables["params"], digits.model.variables["params"])
    assert not np.allclose(
        released.variables["batch_stats"]["bn1"]["mean"], digits.model.variables["batch_stats"]["bn1"]["mean"]
    )


def test_the_paper_is_the_default_and_not_what_the_released_notebook_makes_of_it(digits):
    method = Unsir(noise_images=32, noise_steps=0)
    noise, variables = optimised_noise(digits.model, (3,), (8, 8, 3), method, jax.random.key(0))
    assert noise.shape[1] == 32
    jax.tree.map(np.testing.assert_array_equal, variables, digits.model.variables)


@pytest.mark.parametrize(("settings", "learnt"), [("as_intended", 32), ("as_released", 3)])
def test_as_released_only_as_much_noise_is_learnt_as_an_image_has_channels(digits, settings, learnt):
    method = Unsir(settings=settings, noise_images=32, noise_steps=0)
    noise, _ = optimised_noise(digits.model, (3, 7), (8, 8, 3), method, jax.random.key(0))
    assert noise.shape == (2, learnt, 8, 8, 3)


def test_each_noise_image_is_learnt_as_its_class_as_often_as_asked_and_no_forgotten_image_is_read():
    examples = impair_examples(np.array([10, 11, 12]), np.array([0, 1, 2]), (7, 5), noise_images=2, repeats=3)
    pairs, counts = np.unique([examples["noise"], examples["labels"]], axis=1, return_counts=True)
    np.testing.assert_array_equal(pairs, [[-1, -1, -1, 0, 1, 2, 3], [0, 1, 2, 7, 7, 5, 5]])
    np.testing.assert_array_equal(counts, [1, 1, 1, 3, 3, 3, 3])
    assert set(examples["indices"]) == {10, 11, 12}


@pytest.mark.parametrize("bad", [{"settings": "as_printed"}, {"noise_images": 0}, {"impair_rate": -1}])
def test_a_setting_that_cannot_be_used_is_an_input_error(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Unsir(**bad)
