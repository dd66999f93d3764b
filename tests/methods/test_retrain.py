"""Retraining as a method is the training command without the class."""

import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from osp_jax.data.augment import channel_moments
from osp_jax.data.sources import Dataset, Split, load_dataset
from osp_jax.interop.linen import from_linen
from osp_jax.methods.parts.data import request_data
from osp_jax.methods.retrain import Retrain
from osp_jax.networks import build_model
from osp_jax.runtime.errors import InputError
from osp_jax.training import loop
from osp_jax.training.loop import train
from osp_jax.training.recipe import preparation_of
from tests.training.conftest import SmallNet


def small_config() -> ConfigDict:
    config = default.get_config()
    config.model.width = 4
    config.training.epochs = 2
    config.training.batch_size = 32
    return config


def first_classes(number: int) -> Dataset:
    digits = load_dataset("digits")
    train = np.flatnonzero(digits.train.labels < number)[:80]
    split = Split(digits.train.images[train], digits.train.labels[train])
    return Dataset("digits", "some digits", digits.class_names[:number], split, split)


def retrained(config, dataset, forget, mean, std, **budget):
    module = build_model(config, dataset.num_classes, dataset.image_shape)
    model = from_linen(module, {"params": {}}, mean=mean, std=std, class_names=dataset.class_names)
    everything = np.arange(len(dataset.train.labels), dtype=np.int32)
    preparation = preparation_of(config, mean, std)
    data = request_data(dataset.train, everything, forget, preparation, config.to_dict(), **budget)
    new = Retrain().unlearn(model, forget, data=data, statistics=None, rng=jax.random.key(9))
    return new.variables, data


def test_it_ends_bit_for_bit_where_training_with_the_class_excluded_ends(tmp_path):
    config, dataset = small_config(), first_classes(3)
    kept = dataset.train.labels != 1
    variables, data = retrained(config, dataset, (1,), *channel_moments(dataset.train.images[kept]))
    config.data.exclude = "1"
    expected = train(config, dataset, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert data.seen() == {str(c): int((dataset.train.labels == c).sum()) for c in (0, 2)}


def test_it_keeps_the_last_batch_where_the_original_did(tmp_path, monkeypatch):
    config, dataset, network = small_config(), first_classes(3), SmallNet()
    for module in (loop, sys.modules[__name__]):
        monkeypatch.setattr(module, "build_model", lambda *_: network)
    config.training.last_batch = "keep"
    kept = dataset.train.labels != 1
    assert kept.sum() % config.training.batch_size
    variables, _ = retrained(config, dataset, (1,), *channel_moments(dataset.train.images[kept]))
    config.data.exclude = "1"
    jax.tree.map(np.testing.assert_array_equal, variables, train(config, dataset, tmp_path))
    config.training.last_batch = "drop"
    other, _ = retrained(config, dataset, (1,), *channel_moments(dataset.train.images[kept]))
    assert (other["params"]["head"]["kernel"] != variables["params"]["head"]["kernel"]).any()


def test_a_budget_that_fills_no_batch_is_an_input_error():
    with pytest.raises(InputError, match="raise retain_per_class"):
        retrained(small_config(), first_classes(3), (1,), (0.5,), (0.5,), retain_per_class=4)


def test_an_original_that_started_from_another_network_is_not_retrained_from_half_its_recipe():
    config = small_config()
    config.training.start_from = "runs/first"
    with pytest.raises(InputError, match="start_from"):
        retrained(config, first_classes(3), (1,), (0.5,), (0.5,))
