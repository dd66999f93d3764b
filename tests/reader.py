"""What a reader of the documents has: a trained Linen network and its images, under the names that the lines use."""

from typing import Any

import numpy as np

import osp_jax
from tests.digits import DigitsNet, trained_digits

NAMES = ("zero", "one", "two", "cat", "four", "five", "six", "seven", "eight", "nine")


def variables_of_a_reader() -> dict[str, Any]:
    """Values by the names that the Python lines of the README and of docs/python.md use."""
    digits = trained_digits()
    given = {"osp_jax": osp_jax, "module": DigitsNet(), "variables": digits.model.variables, "names": NAMES}
    images = {"images": digits.dataset.train.images, "labels": digits.dataset.train.labels}
    tests = {"test_images": digits.dataset.test.images, "test_labels": digits.dataset.test.labels}
    return given | images | tests | {"mean": digits.preparation.mean, "std": digits.preparation.std}


def accuracies(model: osp_jax.Model, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """On the images of the cat, class 3, and on those of the other classes."""
    mean, std = np.asarray(model.mean, np.float32), np.asarray(model.std, np.float32)
    right = np.argmax(model.apply(model.variables, (images / np.float32(255) - mean) / std), axis=1) == labels
    return right[labels == 3].mean(), right[labels != 3].mean()


def assert_the_lines_forget(lines: str) -> dict[str, Any]:
    """Runs the README's lines for a Linen network: the cat is forgotten and the others are kept.

    Returns:
      the variables after them.
    """
    variables = variables_of_a_reader()
    exec(lines, variables)
    tests = variables["test_images"], variables["test_labels"]
    before, after = accuracies(variables["model"], *tests), accuracies(variables["result"].model, *tests)
    assert before[0] > 0.9, before
    assert after[0] < 0.05, after
    assert after[1] > before[1] - 0.02, (before, after)
    return variables
