"""Checks of every request, whatever the method."""

import jax
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.methods import METHODS, get_method, unlearn_classes
from osp_jax.methods.osp import Osp
from osp_jax.methods.parts.data import request_data
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import collect_statistics
from tests.methods.conftest import request_of
from tests.small_networks import SHAPE, FlatMLP

IMAGES = np.zeros((4, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ("forget", "words"),
    [
        ((), "no class to forget"),
        ((-1,), "there is no class -1; give numbers from 0 to 4"),
        ((12,), "there is no class 12"),
        ((1, 5), "there is no class 5"),
        ((0, 1, 2, 3, 4), "all 5 classes would be forgotten"),
        ((1.5,), "1.5 is no class number"),
        (("cat",), "'cat' is no class number"),
        ((True,), "True is no class number"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(forget, words, flat_mlp):
    with pytest.raises(InputError, match=words):
        request_of("osp", flat_mlp, forget)


def asked(trained, name="osp", gone=(), **changed):
    given = {"method": get_method(name)(), "model": trained.model.replace(forgotten=gone)}
    given |= {"statistics": trained.statistics, "rng": jax.random.key(0)}
    return unlearn_classes(forget=(1,), **(given | changed))


def test_a_class_that_is_gone_is_not_forgotten_again(flat_mlp):
    with pytest.raises(InputError, match=r"class 1 \(1\) is forgotten already"):
        asked(flat_mlp, gone=(1,))
    with pytest.raises(InputError, match="all 5 classes"):
        asked(flat_mlp, gone=(0, 2, 3, 4))


@pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).sees])
def test_a_method_that_needs_images_says_so_where_it_gets_none(name, flat_mlp):
    with pytest.raises(InputError, match=r"needs .*examples; give data"):
        asked(flat_mlp, name)


def test_data_of_another_request_are_refused(flat_mlp):
    split = Split(IMAGES, np.arange(4))
    data = request_data(split, np.arange(4), (2,), Preparation((0.5,), (0.5,)), {})
    with pytest.raises(InputError, match=r"data are for forgetting \[2\], not \[1\]"):
        asked(flat_mlp, data=data)


def test_the_classes_forgotten_before_and_now_are_those_of_the_result(flat_mlp):
    assert asked(flat_mlp).forgotten == (1,)
    assert asked(flat_mlp, gone=(0, 3)).forgotten == (0, 1, 3)


@pytest.mark.parametrize("name", [name for name in METHODS if get_method(name)().trains])
def test_a_method_that_trains_says_so_where_the_network_cannot_be_trained(name, flat_mlp):
    data = request_data(Split(IMAGES, np.arange(4)), np.arange(4), (1,), Preparation((0.5,), (0.5,)), None)
    with pytest.raises(InputError, match="trains the network and the model has no train_apply; give it"):
        asked(flat_mlp, name, model=flat_mlp.model.replace(train_apply=None), data=data)


@pytest.mark.parametrize("name", ["retrain", "euk"])
def test_a_method_that_starts_over_says_so_where_there_are_no_fresh_variables(name, flat_mlp):
    data = request_data(Split(IMAGES, np.arange(4)), np.arange(4), (1,), Preparation((0.5,), (0.5,)), None)
    with pytest.raises(InputError, match="needs fresh variables and the model has no init; give it"):
        asked(flat_mlp, name, model=flat_mlp.model.replace(init=None), data=data)


def test_a_method_that_needs_the_recipe_says_so_where_it_is_unknown(flat_mlp):
    data = request_data(Split(IMAGES, np.arange(4)), np.arange(4), (1,), Preparation((0.5,), (0.5,)), None)
    with pytest.raises(InputError, match="needs the recipe of the original; give it"):
        asked(flat_mlp, "retrain", data=data)


def test_statistics_of_another_number_of_classes_are_refused(flat_mlp):
    with pytest.raises(InputError, match="of 5 classes and the model has 4; collect them again"):
        asked(flat_mlp, model=flat_mlp.model.replace(class_names=("a", "b", "c", "d")))


@pytest.mark.parametrize(
    "changed",
    [{"statistics": None}, {"method": None}, {"method": "osp"}, {"method": Osp}, {"model": None}, {"model": FlatMLP()}],
    ids=str,
)
def test_something_else_than_a_method_a_model_or_statistics_is_refused(changed, flat_mlp):
    with pytest.raises(InputError, match=next(iter(changed))):
        asked(flat_mlp, **changed)


def test_the_statistics_of_a_class_that_is_gone_count_nothing(flat_mlp):
    left = flat_mlp.statistics.without((1, 3))
    np.testing.assert_array_equal(left.classes_seen(), [0, 2, 4])
    assert not set(np.asarray(left.labels)) & {1, 3}
    assert len(left.features) == len(left.labels) == 12
    for name, layer in left.layers.items():
        kept = flat_mlp.statistics.layers[name]
        for new, old in zip(jax.tree.leaves(layer), jax.tree.leaves(kept), strict=True):
            np.testing.assert_array_equal(new[np.array([1, 3])], 0)
            np.testing.assert_array_equal(new[np.array([0, 2, 4])], old[np.array([0, 2, 4])])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES.astype(np.float32) / 255, np.zeros(4, int), "images are float32"),
        (IMAGES[0], np.zeros(2, int), r"of shape \(2, 2, 1\)"),
        (IMAGES, np.zeros(3, int), "for each of the 4 images"),
        (IMAGES, np.zeros((4, 1), int), "for each of the 4 images"),
        (IMAGES, np.zeros(4), "labels are float64"),
        (IMAGES, np.array([0, 1, -1, 2]), "a label is -1"),
    ],
)
def test_a_split_of_other_arrays_is_refused(images, labels, words):
    with pytest.raises(InputError, match=words):
        Split(images, labels)


def test_images_that_are_scaled_already_are_not_scaled_again(flat_mlp):
    batches = [(np.zeros((5, *SHAPE), np.float32), np.arange(5))]
    with pytest.raises(InputError, match="images are float32; give uint8"):
        collect_statistics(flat_mlp.model, batches)
