"""A small network that knows the digits, with all classes or without the 3.

Its variables are in `digits.npz`, since a short training ends elsewhere on another processor, and what the methods make
of the network with it. `python -m tests.digits` trains anew and writes the file, after a change of the network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import Preparation, channel_moments
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.interop.linen import from_linen
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.networks import init_variables
from osp_jax.networks.layers import conv2d
from osp_jax.training.descent import Optimiser, cosine_rates, descend, epoch_batches, in_train_mode

FILE = Path(__file__).with_name("digits.npz")
VARIANTS = {"all": (), "without 3": (3,)}


class DigitsNet(nn.Module):
    """Three convolutions with batch norm and a head: compiles in a second and learns the digits."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for i, (filters, strides) in enumerate(((8, 1), (16, 2), (32, 1)), start=1):
            x = conv2d(filters, (3, 3), strides, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{i}")(x))
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


class TrainedDigits(NamedTuple):
    """A network trained on the digits."""

    model: Model
    dataset: Dataset
    preparation: Preparation


def trained_digits(exclude: Sequence[int] = ()) -> TrainedDigits:
    """The network that `digits.npz` holds for the excluded classes."""
    (name,) = (name for name, classes in VARIANTS.items() if classes == tuple(exclude))
    with np.load(FILE) as arrays:
        paths = [path for path in arrays.files if path.startswith(f"{name}/")]
        flat = {path.removeprefix(f"{name}/"): jnp.asarray(arrays[path]) for path in paths}
    return _with_data(traverse_util.unflatten_dict(flat, sep="/"))


def train_digits(exclude: Sequence[int] = (), epochs: int = 12) -> TrainedDigits:
    """The same, trained anew."""
    dataset = load_dataset("digits")
    model, dataset, preparation = _with_data(init_variables(DigitsNet(), dataset.image_shape, jax.random.key(0)))
    kept = np.flatnonzero(~np.isin(dataset.train.labels, list(exclude))).astype(np.int32)
    batches = epoch_batches(kept, 64, epochs, jax.random.key(1))
    variables = descend(
        retain_loss(in_train_mode(model), preparation),
        model,
        {"indices": batches},
        cosine_rates(0.1, len(batches)),
        jax.random.key(2),
        optimiser=Optimiser(nesterov=True),
        arguments=(dataset.train.images, dataset.train.labels),
    )
    return TrainedDigits(model.replace(variables=variables), dataset, preparation)


def _with_data(variables: dict[str, Any]) -> TrainedDigits:
    dataset = load_dataset("digits")
    preparation = Preparation(*channel_moments(dataset.train.images), pad=1)
    given = {"mean": preparation.mean, "std": preparation.std, "class_names": dataset.class_names}
    return TrainedDigits(from_linen(DigitsNet(), variables, **given), dataset, preparation)


if __name__ == "__main__":
    trained = {name: train_digits(exclude).model.variables for name, exclude in VARIANTS.items()}
    np.savez_compressed(FILE, **traverse_util.flatten_dict(jax.device_get(trained), sep="/"))
