"""Augmentation and normalisation on random images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.augment import Preparation, augment, channel_moments, normalise

SHAPE = (64, 8, 6, 3)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)


def windows(image: np.ndarray, pad: int, mode: str = "reflect") -> list[np.ndarray]:
    """All crops of the image's own size out of the image reflected, or black, beyond its edges."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    return [padded[y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]


def test_without_settings_images_stay_as_they_are(images, key):
    np.testing.assert_array_equal(augment(jnp.asarray(images), key, pad=0, flip=False, cutout=0), images)


def test_crops_are_windows_of_the_reflected_image(images, key):
    chosen = []
    for image, crop in zip(images, np.asarray(augment(jnp.asarray(images), key, pad=2)), strict=True):
        matches = [i for i, window in enumerate(windows(image, 2)) if (window == crop).all()]
        assert len(matches) == 1
        chosen += matches
    assert len(set(chosen)) > 15  # of 25, in 64 draws
    assert min(chosen) < 5  # the first and the last row are drawn too
    assert max(chosen) >= 20


def test_crops_padded_by_zeros_are_windows_of_the_image_on_black_before_it_is_normalised(key):
    images = np.random.default_rng(0).integers(1, 256, SHAPE).astype(np.uint8)
    preparation = Preparation((0.1, 0.5, 0.9), (0.2, 0.3, 1.0), pad=2, pad_mode="zeros")
    chosen = []
    for image, crop in zip(images, np.asarray(preparation.augmented(jnp.asarray(images), key)), strict=True):
        every = np.asarray(preparation.plain(jnp.asarray(np.stack(windows(image, 2, "constant")))))
        matches = np.flatnonzero(np.isclose(every, crop, rtol=1e-5, atol=1e-6).all((1, 2, 3)))
        assert len(matches) == 1
        chosen += matches.tolist()
    assert len(set(chosen)) > 15
    reflected = preparation._replace(pad_mode="reflect").augmented(jnp.asarray(images), key)
    assert (np.asarray(reflected) != preparation.augmented(jnp.asarray(images), key)).any()
    np.testing.assert_array_equal(
        reflected, augment(preparation.plain(jnp.asarray(images)), key, pad=2)
    )  # what was done before there was a choice


def test_flips_are_left_to_right_and_of_about_half_the_images(images, key):
    flipped = np.asarray(augment(jnp.asarray(images), key, flip=True))
    same, mirrored = (images == flipped).all((1, 2, 3)), (images[:, :, ::-1] == flipped).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_a_cut_out_sets_at_most_its_square_to_zero_and_nothing_else(side, images, key):
    cut = np.asarray(augment(jnp.asarray(images), key, cutout=side))
    gone = (cut == 0).all(-1)
    np.testing.assert_array_equal(cut[~gone], images[~gone])
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert (gone.sum((1, 2)) == rows * columns).all()  # a rectangle, cut off at the edges of the image
    assert min(rows.min(), columns.min()) >= 1
    assert rows.max() == columns.max() == side


def test_augmentation_follows_from_the_key(images, key):
    settings = {"pad": 2, "flip": True, "cutout": 3}
    first, again = (augment(jnp.asarray(images), key, **settings) for _ in range(2))
    other = augment(jnp.asarray(images), jax.random.key(1), **settings)
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != other).any()


def test_normalised_images_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    mean, std = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 1.0])
    result = normalise(jnp.asarray(images), jnp.float32(mean), jnp.float32(std))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (images / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_channel_moments_are_mean_and_standard_deviation():
    images = np.random.default_rng(0).integers(0, [256, 100, 7], SHAPE).astype(np.uint8)
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-6)


def test_a_channel_that_never_changes_gets_a_deviation_to_divide_by():
    mean, std = channel_moments(np.full((2, 3, 3, 1), 51, np.uint8))
    np.testing.assert_allclose((*mean, *std), (0.2, 1 / 255))
