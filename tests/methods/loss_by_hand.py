"""The cross-entropy of images of the digits with their labels in NumPy float64, from the network's logits."""

from typing import Any

import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module


def without_augmentation(digits: Any) -> Preparation:
    return Preparation(digits.preparation.mean, digits.preparation.std)


def cross_entropy_by_hand(digits: Any, indices: Any, *, train: bool) -> float:
    """Mean over the images `indices` of the training split; `train` is the network's mode."""
    split, preparation = digits.dataset.train, digits.preparation
    inputs = (split.images[indices] / 255 - np.array(preparation.mean)) / np.array(preparation.std)
    logits, _ = linen_module(digits.model).apply(
        digits.model.variables, inputs.astype(np.float32), train, mutable=["batch_stats"]
    )
    logits = np.asarray(logits, np.float64)
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(indices)), split.labels[indices]]))
