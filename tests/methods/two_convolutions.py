"""A network of two convolutions, and the same in NumPy float64: forward, and back to the outputs of its filters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.interop.linen import from_linen
from osp_jax.methods import get_method, unlearn_classes
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.statistics import Statistics, collect_statistics
from tests.small_networks import random_variables

CLASSES = 4
PREPARATION = Preparation((0.5, 0.4, 0.6), (0.3, 0.2, 0.25))
RNG = np.random.default_rng(0)
LABELS = (np.arange(26) % CLASSES).astype(np.int32)
# Each class has a colour of its own, so that channels tell the classes apart.
TINTS = RNG.integers(0, 200, (CLASSES, 1, 1, 3))
IMAGES = (TINTS[LABELS] + RNG.integers(0, 56, (len(LABELS), 5, 5, 3))).astype(np.uint8)


class TwoConvolutions(nn.Module):
    """3x3 with a batch norm, 1x1 with a bias and no norm, spatial mean, head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(12, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn1")(x))
        x = nn.relu(nn.Conv(9, (1, 1), name="conv2")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


VARIABLES = random_variables(TwoConvolutions(), jax.ShapeDtypeStruct((1, *IMAGES.shape[1:]), jnp.float32))
MOMENTS = {"mean": PREPARATION.mean, "std": PREPARATION.std}
MODEL = from_linen(TwoConvolutions(), VARIABLES, **MOMENTS, class_names=[str(c) for c in range(CLASSES)])


def statistics() -> Statistics:
    return collect_statistics(MODEL, [(IMAGES, LABELS)])


def request(method: str, forget: tuple[int, ...], **options: Any) -> tuple[dict[str, np.ndarray], RequestData]:
    """(parameters by path, data) after a request on `VARIABLES`."""
    data = request_data(Split(IMAGES, LABELS), np.arange(len(LABELS), dtype=np.int32), forget, PREPARATION, {})
    given = {"data": data, "statistics": statistics(), "rng": jax.random.key(0)}
    new = unlearn_classes(get_method(method)(**options), MODEL, forget, **given)
    return traverse_util.flatten_dict(jax.tree.map(np.asarray, new.variables["params"]), sep="/"), data


def parameters() -> dict[str, np.ndarray]:
    """Of `VARIABLES`, float64 by path, with the moving `bn1/mean` and `bn1/var` among them."""
    flat = traverse_util.flatten_dict(VARIABLES["params"]) | traverse_util.flatten_dict(VARIABLES["batch_stats"])
    return {"/".join(path): np.asarray(leaf, np.float64) for path, leaf in flat.items()}


def forward(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of all images: outputs of the filters `conv1`, `conv2`, what is behind their norm and ReLU, and `logits`."""
    x = (IMAGES / 255 - np.array(PREPARATION.mean)) / np.array(PREPARATION.std)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    conv1 = sum(
        padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ p["conv1/kernel"][i, j] for i in range(3) for j in range(3)
    )
    norm = (conv1 - p["bn1/mean"]) / np.sqrt(p["bn1/var"] + 1e-5) * p["bn1/scale"] + p["bn1/bias"]
    conv2 = np.maximum(norm, 0) @ p["conv2/kernel"][0, 0] + p["conv2/bias"]
    logits = np.maximum(conv2, 0).mean((1, 2)) @ p["head/kernel"] + p["head/bias"]
    return {"conv1": conv1, "bn1": np.maximum(norm, 0), "conv2": conv2, "relu2": np.maximum(conv2, 0), "logits": logits}


def gradients(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each image's cross-entropy by the outputs of the filters `conv1` and `conv2`."""
    values = forward(p)
    probabilities = np.exp(values["logits"]) / np.exp(values["logits"]).sum(1, keepdims=True)
    features = (probabilities - np.eye(CLASSES)[LABELS]) @ p["head/kernel"].T
    conv2 = features[:, None, None] / np.prod(IMAGES.shape[1:3]) * (values["conv2"] > 0)
    factor = p["bn1/scale"] / np.sqrt(p["bn1/var"] + 1e-5)
    return {"conv1": conv2 @ p["conv2/kernel"][0, 0].T * (values["bn1"] > 0) * factor, "conv2": conv2}


def without(p: dict[str, np.ndarray], gone: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`p` without the channels that `gone`, bool `(channels,)` by convolution, says."""
    leaves = {"conv1": ("conv1/kernel", "bn1/scale", "bn1/bias"), "conv2": ("conv2/kernel", "conv2/bias")}
    return p | {leaf: np.where(gone[path], 0, p[leaf]) for path in gone for leaf in leaves[path]}


def assert_parameters(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Each of `actual` within 1e-4 of what is expected."""
    for path, value in actual.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, err_msg=path)
