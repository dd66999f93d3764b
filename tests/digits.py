"""A small network that learns the digits in seconds, with all classes or without some."""

import fcntl
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import Preparation, channel_moments
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.models import init_variables
from osp_jax.models.layers import conv2d
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches
from osp_jax.unlearning.finetune import retain_loss

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "digits"


class DigitsNet(nn.Module):
    """Three convolutions with batch norm and a head: compiles in a second and learns the digits."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for i, (filters, strides) in enumerate(((8, 1), (16, 2), (32, 1)), start=1):
            x = conv2d(filters, (3, 3), strides, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{i}")(x))
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


def trained_digits(
    exclude: Sequence[int] = (), images: int | None = None, epochs: int = 12, pad: int = 1
) -> tuple[nn.Module, dict[str, Any], Dataset, Preparation]:
    """Model, variables, data and normalisation; trained on the first `images` training images without `exclude`.

    The variables are kept on disk, for other workers and the next run, until anything changes that may determine them.
    """
    dataset = load_dataset("digits")
    preparation = Preparation(*channel_moments(dataset.train.images), pad=pad)
    model = DigitsNet()
    determined_by = (
        f"{_sources()} {jax.__version__} {os.environ.get('XLA_FLAGS')} {(*exclude,)} {images} {epochs} {pad}"
    )
    file = CACHE / f"{hashlib.sha256(determined_by.encode()).hexdigest()[:24]}.npz"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker trains, others wait for it
        if not file.exists():
            variables = _train(model, dataset, preparation, exclude, images, epochs)
            new = file.with_suffix(".new.npz")
            np.savez(new, **traverse_util.flatten_dict(jax.device_get(variables), sep="/"))
            new.replace(file)
    with np.load(file) as arrays:
        flat = {path: jax.numpy.asarray(arrays[path]) for path in arrays.files}
    return model, traverse_util.unflatten_dict(flat, sep="/"), dataset, preparation


@lru_cache(maxsize=1)
def _sources() -> str:
    """A hash of this file and of all of the library."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted((ROOT / "osp_jax").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _train(
    model: nn.Module,
    dataset: Dataset,
    preparation: Preparation,
    exclude: Sequence[int],
    images: int | None,
    epochs: int,
) -> dict[str, Any]:
    kept = np.flatnonzero(~np.isin(dataset.train.labels[:images], list(exclude))).astype(np.int32)
    batches = epoch_batches(kept, 64, epochs, jax.random.key(1))
    return descend(
        retain_loss(model, preparation),
        init_variables(model, dataset.image_shape, jax.random.key(0)),
        {"indices": batches},
        cosine_rates(0.1, len(batches)),
        jax.random.key(2),
        optimiser=Optimiser(nesterov=True),
        arguments=(dataset.train.images, dataset.train.labels),
    )
