"""Random labels: the labels and batches, the loss by hand, and the effect on the digits."""

import jax
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module
from osp_jax.methods import get_method
from osp_jax.methods.parts.relabelled import relabelled_batches, relabelled_loss
from osp_jax.methods.random_label import RandomLabel
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_train_mode, split_variables


def test_the_loss_is_the_cross_entropy_with_the_labels_of_the_batch(digits):
    preparation = Preparation(digits.preparation.mean, digits.preparation.std)  # no augmentation, so by hand
    train, batch = digits.dataset.train, {"indices": np.array([5, 40, 41]), "labels": np.array([7, 0, 2])}
    params, rest = split_variables(digits.model)
    value, _ = relabelled_loss(in_train_mode(digits.model), preparation)(
        params, rest, batch, jax.random.key(0), train.images
    )
    inputs = (train.images[batch["indices"]] / 255 - np.array(preparation.mean)) / np.array(preparation.std)
    logits, _ = linen_module(digits.model).apply(
        digits.model.variables, inputs.astype(np.float32), True, mutable=["batch_stats"]
    )
    logits = np.asarray(logits, np.float64)
    expected = [np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, batch["labels"], strict=True)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)


def batches_of(digits, forget, **options):
    return relabelled_batches(digits.data(forget), forget, np.arange(10), RandomLabel(**options), jax.random.key(0))


@pytest.mark.parametrize("forget", [(3,), (3, 8)])
def test_a_forgotten_image_gets_the_label_of_a_retained_class_and_a_retained_one_keeps_its_own(digits, forget):
    batches, own = batches_of(digits, forget, epochs=2), digits.dataset.train.labels
    forgotten = np.isin(own[batches["indices"]], forget)
    assert set(batches["labels"][forgotten]) == set(range(10)) - set(forget)
    np.testing.assert_array_equal(batches["labels"][~forgotten], own[batches["indices"]][~forgotten])


def test_labels_may_be_drawn_from_all_classes_as_in_the_code(digits):
    batches = batches_of(digits, (3,), labels="any", epochs=2)
    forgotten = digits.dataset.train.labels[batches["indices"]] == 3
    assert set(batches["labels"][forgotten]) == set(range(10))


def test_an_epoch_goes_over_all_forgotten_images_with_new_labels_and_then_over_all_retained(digits):
    batches, own = batches_of(digits, (3,), epochs=2, batch_size=64), digits.dataset.train.labels
    first, second = ({name: np.split(rows, 2)[epoch] for name, rows in batches.items()} for epoch in (0, 1))
    steps, is_forgotten = -(-(own == 3).sum() // 64), own[first["indices"]] == 3
    assert is_forgotten[:steps].all()
    assert not is_forgotten[steps:].any()
    assert set(first["indices"].ravel()) == set(range(len(own)))
    new = [(epoch["indices"][:steps].ravel(), epoch["labels"][:steps].ravel()) for epoch in (first, second)]
    labels = [dict(zip(*pair, strict=True)) for pair in new]
    assert labels[0].keys() == labels[1].keys()
    assert labels[0] != labels[1]


def test_mixed_epochs_have_both_kinds_in_a_batch(digits):
    batches = batches_of(digits, (3,), epochs=1, mixed=True)
    share = (digits.dataset.train.labels[batches["indices"]] == 3).mean(1)
    assert (share > 0).all()
    assert (share < 0.3).all()


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 8), marks=pytest.mark.slow)])
def test_it_forgets_the_digits_and_keeps_the_others(digits, forget):
    options = {"epochs": 5, "learning_rate": 0.03, "batch_size": 64}
    model, data = digits.forget("random-label", forget, **options)
    forgotten, retained = digits.accuracies(model, forget)
    assert forgotten < 0.1
    assert retained > digits.accuracies(digits.model, forget)[1] - 0.05
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"learning_rate": -1.0}, {"batch_size": 0}, {"momentum": 1.5}, {"labels": "wrong"}]
)
def test_a_bad_option_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("random-label")(**options)
