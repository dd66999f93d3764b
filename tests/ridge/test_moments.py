"""The moments of a head: removing images or classes equals never having had them."""

import numpy as np
import pytest

from osp_jax.ridge import cholesky
from osp_jax.ridge.files import load_moments, save_moments
from osp_jax.ridge.moments import HeadMoments, RandomFeatures, class_moments, features_of
from osp_jax.runtime.errors import InputError

DRAW = np.random.default_rng(0)
LABELS = np.arange(400) % 4
VALUES = (DRAW.normal(size=(400, 10)) + LABELS[:, None] * DRAW.normal(size=10)).astype(np.float32)
RANDOM = RandomFeatures(DRAW.normal(size=(10, 6)).astype(np.float32), DRAW.normal(size=6).astype(np.float32))
SETTINGS = {"ridge": 0.1, "scale": 10.0}


def fit(kept: np.ndarray, images: bool = True) -> HeadMoments:
    rows = np.flatnonzero(kept)
    features = features_of(rows, LABELS[rows], VALUES[rows]) if images else None
    classes = class_moments(VALUES[rows], LABELS[rows], RANDOM)
    return HeadMoments(classes, 4, **SETTINGS, random=RANDOM, features=features)


def everything() -> np.ndarray:
    return np.ones(len(LABELS), bool)


def assert_equal_heads(one: np.ndarray, other: np.ndarray, bound: float = 1e-9) -> None:
    assert np.abs(one - other).max() <= bound * np.abs(other).max()


def test_a_head_is_ridge_regression_on_one_hot_targets_with_a_free_intercept():
    design = np.c_[fit(everything()).expanded(VALUES)]
    penalty = np.diag([SETTINGS["ridge"]] * 16 + [0.0])
    expected = np.linalg.solve(design.T @ design + penalty, design.T @ (10.0 * np.eye(4)[LABELS]))
    assert_equal_heads(fit(everything()).head(), expected)


@pytest.mark.parametrize("classes", [(2,), (0, 3)])
def test_without_classes_a_head_is_that_of_a_fit_without_them(classes):
    expected = fit(~np.isin(LABELS, classes)).head()
    moments = fit(everything()).with_prepared()
    for prepared in (True, False):
        assert_equal_heads(moments.head_without(classes, prepared), expected)
    left = moments.without(classes)
    assert_equal_heads(left.head(), expected)
    assert not {*classes} & {*left.classes, *left.features.labels.tolist(), *left.prepared}


@pytest.mark.parametrize("seed", [0])
def test_after_a_hundred_removals_in_any_order_a_head_is_that_of_a_refit(seed):
    order, kept = np.random.default_rng(seed).permutation(len(LABELS)), everything()
    moments = fit(kept)
    for taken in np.array_split(order[:150], 99):
        moments, kept[taken] = moments.without_images(taken), False
    moments, kept = moments.without([1]), kept & (LABELS != 1)
    assert_equal_heads(moments.head(), fit(kept).head(), 1e-6)


@pytest.mark.parametrize("count", [1, 40])
def test_a_downdated_factor_is_that_of_the_other_rows(count):
    rows = DRAW.normal(size=(400, 200))
    lower = cholesky.factor(rows.T @ rows, 0.5)
    expected = cholesky.factor(rows[count:].T @ rows[count:], 0.5)
    np.testing.assert_allclose(cholesky.downdated(lower, rows[:count]), expected, atol=1e-9)


def test_rows_that_alone_hold_a_direction_leave_it_too():
    values = VALUES.copy()
    values[:, 0] = 0
    values[5, 0] = 100
    rows = np.arange(400)
    moments = HeadMoments(
        class_moments(values, LABELS, RANDOM), 4, 1e-3, 10.0, RANDOM, features=features_of(rows, LABELS, values)
    )
    kept = rows != 5
    expected = HeadMoments(class_moments(values[kept], LABELS[kept], RANDOM), 4, 1e-3, 10.0, RANDOM).head()
    assert_equal_heads(moments.without_images([5]).head(), expected, 1e-6)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], "no image to forget"),
        ([400], "image 400 was not among"),
        ([-1], "image -1 was not among"),
        ([3, 3], "twice"),
        ([1.5], "no integers"),
        (list(range(0, 400, 4)), "all images of class 0"),
    ],
)
def test_images_that_cannot_be_forgotten_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        fit(everything()).without_images(numbers)


def test_an_image_is_forgotten_once_and_only_where_features_are_kept():
    with pytest.raises(InputError, match="already forgotten"):
        fit(everything()).without_images([7]).without_images([7])
    with pytest.raises(InputError, match="keep_features"):
        fit(everything(), images=False).without_images([7])


def test_moments_come_back_from_disk_and_a_damaged_file_is_named(tmp_path):
    moments = fit(everything()).without([1]).with_prepared()
    save_moments(tmp_path / "head", moments)
    found = load_moments(tmp_path / "head", SETTINGS, RANDOM, 4)
    np.testing.assert_array_equal(found.head(), moments.head())
    np.testing.assert_array_equal(found.prepared[2], moments.prepared[2])
    np.testing.assert_array_equal(found.features.values, moments.features.values)
    (tmp_path / "head" / "moments" / "2.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"2\.npy cannot be read"):
        load_moments(tmp_path / "head", SETTINGS, RANDOM, 4)
