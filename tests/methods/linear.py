"""A network of one dense layer with explicit gradients, and a small set of images for it."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.interop.linen import from_linen
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.networks import init_variables
from osp_jax.program.gates import Head

CLASSES, SHAPE = 3, (2, 3, 1)
PREPARATION = Preparation((0.5,), (0.3,), pad=1, flip=True)
HEAD = Head("params/head/kernel", 0, 1, "params/head/bias")
STATISTICS: Any = SimpleNamespace(
    num_classes=CLASSES, classes_seen=lambda: np.arange(CLASSES), gates=SimpleNamespace(head=HEAD)
)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(CLASSES, name="head")(images.reshape(images.shape[0], -1))


VARIABLES = init_variables(Linear(), SHAPE, jax.random.key(5))
MODEL = from_linen(Linear(), VARIABLES, mean=PREPARATION.mean, std=PREPARATION.std, class_names=("a", "b", "c"))


def images_of(counts: tuple[int, ...]) -> Split:
    """So many random images of each class, in a random order."""
    draw = np.random.default_rng(3)
    labels = draw.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    return Split(draw.integers(0, 256, (len(labels), *SHAPE), dtype=np.uint8), labels)


def request(split: Split, forget: tuple[int, ...]) -> RequestData:
    return request_data(split, np.arange(len(split.labels), dtype=np.int32), forget, PREPARATION, {})


def probabilities(split: Split, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(inputs `(n, 6)`, probabilities `(n, classes)`), float64."""
    inputs = (split.images[indices].reshape(len(indices), -1) / 255 - PREPARATION.mean[0]) / PREPARATION.std[0]
    head = {name: np.asarray(leaf, np.float64) for name, leaf in VARIABLES["params"]["head"].items()}
    powers = np.exp(inputs @ head["kernel"] + head["bias"])
    return inputs, powers / powers.sum(1, keepdims=True)


def gradient(split: Split, indices: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Of the mean cross-entropy of the images with `labels` `(n,)`, in the structure of the parameters, float64."""
    inputs, chances = probabilities(split, indices)
    errors = (chances - np.eye(CLASSES)[labels]) / len(indices)
    return {"head": {"kernel": inputs.T @ errors, "bias": errors.sum(0)}}


def runs(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """`indices` cut into batches, the last one short."""
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


def mean_of_squares(split: Split, batches: list[np.ndarray]) -> Any:
    squares = [jax.tree.map(np.square, gradient(split, batch, split.labels[batch])) for batch in batches]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *squares)


def assert_close(left: Any, right: Any) -> None:
    """To 1e-4 of the largest entry of each leaf."""

    def close(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, left, right)
