"""Selecting images by class."""

import numpy as np
import pytest

from osp_jax.data.splits import check_forget, classes_in_turn, hold_out, parse_classes, per_class_sample, split_by_class
from osp_jax.runtime.errors import InputError

ANIMALS = ("cat", "dog", "bird", "fish")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [40, 20, 10, 1])).astype(np.int32)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("3", (3,)),
        ("2,0", (0, 2)),
        ("dog,cat", (0, 1)),
        (" bird , 1 ", (1, 2)),
        ("dog,1,1", (1,)),
        ("", ()),
        (",", ()),
    ],
)
def test_classes_are_given_by_number_by_name_or_mixed(text, classes):
    assert parse_classes(text, ANIMALS) == classes


def test_a_word_that_is_name_and_number_is_the_name():
    assert parse_classes("2,0", ("2", "1", "0")) == (0, 2)
    assert parse_classes("7", ("5", "6", "7")) == (2,)


@pytest.mark.parametrize("word", ["4", "-1", "1.0", "Cat", "²", "0x1", "9" * 5000])
def test_an_unknown_class_is_refused_with_the_known_ones(word):
    with pytest.raises(InputError, match=r"choose numbers from 0 to 3 or names: cat, dog, bird, fish$") as caught:
        parse_classes(f"cat,{word}", ANIMALS)
    assert repr(word) in str(caught.value)


def test_of_many_known_classes_only_some_are_listed():
    with pytest.raises(InputError, match=r"from 0 to 99 or names: c0, .*c11, \.\.\.$"):
        parse_classes("cat", [f"c{i}" for i in range(100)])


def test_something_must_be_forgotten_and_something_kept():
    check_forget((0, 1, 2), 4)
    with pytest.raises(InputError, match="no class to forget"):
        check_forget((), 4)
    with pytest.raises(InputError, match="all 4 classes would be forgotten"):
        check_forget((0, 1, 2, 3), 4)


def test_classes_in_turn_are_those_named_or_all_that_are_not_forgotten():
    assert classes_in_turn("dog,0", ANIMALS, ()) == (0, ANIMALS.index("dog"))
    assert classes_in_turn("all", ANIMALS, (1,)) == tuple(n for n in range(len(ANIMALS)) if n != 1)
    assert classes_in_turn("all", ("some", "all"), ()) == (1,)
    with pytest.raises(InputError):
        classes_in_turn("1", ANIMALS, (1,))
    with pytest.raises(InputError):
        classes_in_turn("", ANIMALS, ())


@pytest.mark.parametrize("forget", [(), (1,), (0, 3), (0, 1, 2, 3)])
def test_retained_and_forgotten_images_are_a_partition(forget):
    retain, forgotten = split_by_class(LABELS, forget)
    assert (retain.dtype, forgotten.dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(np.sort(np.concatenate([retain, forgotten])), np.arange(len(LABELS)))
    assert set(LABELS[forgotten]) == set(forget)
    assert not set(LABELS[retain]) & set(forget)
    assert (np.diff(retain) > 0).all()
    assert (np.diff(forgotten) > 0).all()


def test_the_same_share_of_each_class_is_held_out():
    train, validation = hold_out(LABELS, 0.25, seed=3)
    assert np.bincount(LABELS[validation], minlength=4).tolist() == [10, 5, 2, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(LABELS)))


def test_what_is_held_out_follows_from_the_seed():
    first, again, other = (hold_out(LABELS, 0.25, seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_nothing_is_held_out_by_default():
    train, validation = hold_out(LABELS, 0.0, seed=0)
    assert (len(train), len(validation)) == (len(LABELS), 0)


@pytest.mark.parametrize("fraction", [1.0, -0.1, 7, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(InputError, match=r"data\.validation is .*from 0 to below 1"):
        hold_out(LABELS, fraction, seed=0)


def test_a_sample_has_as_many_images_of_each_class():
    candidates = np.flatnonzero(LABELS < 3)
    sample = per_class_sample(LABELS, candidates, 30, seed=0)
    assert np.bincount(LABELS[sample]).tolist() == [10, 10, 10]
    assert len(set(sample.tolist())) == 30
    assert sample.dtype == np.int32


def test_a_sample_takes_all_of_a_class_that_has_too_few():
    sample = per_class_sample(LABELS, np.arange(len(LABELS)), 60, seed=0)
    assert np.bincount(LABELS[sample]).tolist() == [15, 15, 10, 1]


def test_a_sample_follows_from_the_seed_and_keeps_to_the_candidates():
    candidates = np.arange(0, len(LABELS), 2)
    first, again, other = (per_class_sample(LABELS, candidates, 8, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert set(first) <= set(candidates.tolist())


def test_a_sample_of_none_is_empty():
    assert len(per_class_sample(LABELS, np.arange(len(LABELS)), 0, seed=0)) == 0
