"""Trainings are compared with the figures in the docstring of their config."""

from pathlib import Path

import pytest

from benchmarks.trainings import differing, read_config
from osp_jax.runtime.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["cifar10_resnet8", "cifar10_resnet20"])
def test_a_config_promises_the_epochs_that_it_trains(name):
    config, promise = read_config(CONFIGS / f"{name}.py")
    assert promise["epochs"] == config["training"]["epochs"]
    assert 0 < promise["hours"] < 48
    assert 50 < promise["accuracy"] < 100


def test_a_config_that_promises_nothing_is_refused():
    with pytest.raises(InputError, match="Expected test accuracy"):
        read_config(CONFIGS / "default.py")


def test_the_seed_the_place_and_the_excluded_classes_are_free_and_nothing_else_is():
    config, _ = read_config(CONFIGS / "cifar10_resnet20.py")
    settings = {**config, "seed": 3, "data": {**config["data"], "exclude": "cat", "dir": "elsewhere"}}
    assert differing(config, settings) == []
    settings["training"] = {**config["training"], "learning_rate": 1.0}
    assert differing(config, settings) == ["training.learning_rate"]
