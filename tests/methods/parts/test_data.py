"""The images that a method may use within its budget, and the record of those it used."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.methods.parts.data import of_each_class, request_data
from osp_jax.runtime.errors import InputError

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2], np.int32)
SPLIT = Split(np.zeros((10, 2, 2, 1), np.uint8), LABELS)
PLAIN = Preparation((0.0,), (1.0,))


def data(forget, indices=range(10), **budget):
    return request_data(SPLIT, np.array(indices, np.int32), forget, PLAIN, {}, **budget)


def test_the_sides_are_the_images_of_the_classes_kept_and_forgotten():
    request = data((2,), indices=[0, 1, 2, 4, 5, 9])
    assert request.retain().tolist() == [0, 1, 4]
    assert request.forget().tolist() == [2, 5, 9]


def test_only_what_was_taken_is_recorded_and_each_image_once():
    request = data((2,))
    assert request.seen() == {}
    request.retain(1)
    request.retain(1)
    assert request.seen() == {"0": 1, "1": 1}
    request.forget()
    assert request.seen() == {"0": 1, "1": 1, "2": 4}


def test_a_budget_bounds_what_can_be_seen():
    request = data((2,), retain_per_class=2, forget_per_class=1)
    assert request.retain().tolist() == [0, 1, 3, 4]
    assert request.retain(5).tolist() == [0, 1, 3, 4]
    assert request.forget().tolist() == [2]


def test_a_budget_of_nothing_is_an_input_error_only_for_who_asks():
    request = data((2,), forget_per_class=0)
    request.retain()
    with pytest.raises(InputError, match="needs forget examples"):
        request.forget()
    with pytest.raises(InputError, match="below 0"):
        data((2,), retain_per_class=-1)


@given(st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_a_random_draw_has_as_many_of_each_class_as_the_first_ones(per_class, seed):
    everything = np.arange(10, dtype=np.int32)
    first, drawn = (of_each_class(LABELS, everything, per_class, key) for key in (None, jax.random.key(seed)))
    assert np.bincount(LABELS[first], minlength=3).tolist() == np.bincount(LABELS[drawn], minlength=3).tolist()
    assert len(set(drawn.tolist())) == len(drawn)
    assert sorted(drawn) == drawn.tolist()
