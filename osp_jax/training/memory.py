"""The memory of a training, estimated from shapes and compared with the available memory before any computation."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.data.memory import available_memory, require_memory
from osp_jax.networks import variable_shapes
from osp_jax.runtime.distributed import data_devices, on_cpu

_COPIES = 4  # of the parameters: values, gradients, momentum, and the copy being saved
_NOTABLE = 1 / 4000  # share of the memory that a batch of images must take before its activations are estimated


def training_bytes(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> int:
    """Approximate bytes of all copies of the parameters and of a batch's activations, without the images."""
    shapes = variable_shapes(model, image_shape)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return _COPIES * parameters + batch_size * _activation_bytes(model, shapes, image_shape)


def check_memory(model: nn.Module, image_shape: tuple[int, ...], batch_size: int, models: int = 1) -> None:
    """Raises `InputError` if the training of `models` networks at a time does not fit. Checks CPUs only, where the
    system overcommits memory; accelerators raise their own errors."""
    if not on_cpu():
        return
    batch = batch_size // max(data_devices(), 1) * math.prod(image_shape) * 4
    images = batch_size if batch > available_memory() * _NOTABLE else 0
    needed = models * training_bytes(model, image_shape, images)
    what = f"parameters and activations of {'the network' if models == 1 else f'{models} networks'}"
    require_memory(needed, what, "lower model.width, training.batch_size or data.image_size")


def _activation_bytes(model: nn.Module, shapes: dict, image_shape: tuple[int, ...]) -> int:
    """The bytes of one image: half of the outputs of all modules, as a block returns the output of its last layer."""
    apply = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, kept = jax.eval_shape(apply, shapes, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept["intermediates"])) // 2
