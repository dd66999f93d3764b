"""The images that shadow models are trained on: a pool, and each model's half of it."""

import numpy as np

from osp_jax.data.sources import Dataset, Split
from osp_jax.runtime.errors import InputError


def shadow_pool(dataset: Dataset, train_indices: np.ndarray) -> Split:
    """The pool of images for shadow models: the original's training images, then the test images.

    The latter stand for an attacker's own data; without them the original would have seen every image of a forgotten
    class. Classes that the original was never trained on are left out.
    """
    train, test = dataset.train, dataset.test
    known = np.isin(test.labels, np.unique(train.labels[train_indices]))
    return Split(
        np.concatenate([train.images[train_indices], test.images[known]]),
        np.concatenate([train.labels[train_indices], test.labels[known]]),
    )


def draw_keep(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Which of `number` shadow models is trained on which image: bool `(number, images)`.

    Every image is in exactly half of them, and all have the same number of images of each class, up to one. Carlini et
    al. (S&P 2022) draw a random half for each image; this draw is balanced.

    Args:
      labels: `(images,)`.

    Raises:
      InputError: an odd number, or one below 4.
    """
    check_number(number)
    rng = np.random.default_rng(seed)
    keep = rng.permuted(np.arange(number)[:, None] % 2 == np.zeros((1, len(labels))), axis=0)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        counts = keep[:, members].sum(1)
        while counts.max() - counts.min() > 1:
            fullest, emptiest = counts.argmax(), counts.argmin()
            movable = members[keep[fullest, members] & ~keep[emptiest, members]]
            moved = rng.choice(movable, (counts[fullest] - counts[emptiest]) // 2, replace=False)
            keep[fullest, moved], keep[emptiest, moved] = False, True
            counts[fullest] -= len(moved)
            counts[emptiest] += len(moved)
    return keep


def check_number(number: int) -> None:
    """Raises `InputError` for an odd number of shadow models, or one below 4."""
    if number < 4 or number % 2:
        raise InputError(f"{number} shadow models cannot see each example by halves; give an even number of at least 4")
