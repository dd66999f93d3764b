"""The function that an exported program computes, and the check that the exported one gives the same logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.interop.linen import with_fields
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError, one_line

TOLERANCE = 1e-4
"""The largest difference of logits that passes, relative to the largest logit."""

_BATCHES = (1, 3)


class Program(NamedTuple):
    """`function(variables, images) -> logits`, both float32, and the shape of one image as the function takes it.

    `layout` is 'NHWC', or 'NCHW' for a network that came from PyTorch.
    """

    function: Callable[[Any, jax.Array], jax.Array]
    variables: Any
    image_shape: tuple[int, ...]
    layout: str


def program_of(model: Model, image_shape: tuple[int, int, int]) -> Program:
    """The eval-mode program of a model, on normalised images.

    Convolutions of our own, which exist for the CPU they train on (`config.model.convolution`), give way to XLA's.

    Args:
      image_shape: (height, width, channels).
    """
    if type(getattr(model.apply, "module", None)).__module__.startswith("osp_jax.networks."):
        model = with_fields(model, convolution="xla")
    if not getattr(model.apply, "channels_first", False):
        return Program(lambda v, images: model.apply(v, images).astype(jnp.float32), model.variables, image_shape, "NHWC")

    def on_channels_first(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, jnp.transpose(images, (0, 2, 3, 1))).astype(jnp.float32)

    height, width, channels = image_shape
    return Program(on_channels_first, model.variables, (channels, height, width), "NCHW")


def any_batch(program: Program) -> jax.ShapeDtypeStruct:
    """Images of a symbolic batch size.

    Raises:
      InputError: the program cannot be traced for one, though it can for two images.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    two, images = (jax.ShapeDtypeStruct((n, *program.image_shape), jnp.float32) for n in (2, batch))
    jax.eval_shape(program.function, program.variables, two)
    try:
        jax.eval_shape(program.function, program.variables, images)
    except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, AssertionError) as error:
        reason = one_line(str(error).partition("\n")[0])[:200]
        raise InputError(
            f"the network cannot be traced for any number of images ({reason}), so its program cannot be exported; "
            "let it use images.shape[0] as a size only, or export its weights"
        ) from error
    return images


def check_logits(
    exported: Callable[[np.ndarray], Any], model: Model, program: Program, what: str
) -> float:
    """The largest difference between the logits of an exported program and those of `model.apply`, on images of noise
    in batches of 1 and 3, relative to the largest logit. Forgotten classes, whose logits are held out of reach, are
    compared relative to theirs.

    Args:
      exported: images `(batch, *program.image_shape)` float32 to logits `(batch, classes)`.
      what: is exported, for the error.

    Raises:
      InputError: it exceeds 1e-4, or the shapes differ, or the logits are not finite.
    """
    gone = np.isin(np.arange(model.num_classes), model.forgotten)
    rng, largest = np.random.default_rng(0), 0.0
    apply = jax.jit(model.apply)
    for batch in _BATCHES:
        images = rng.normal(size=(batch, *program.image_shape)).astype(np.float32)
        nhwc = images.transpose(0, 2, 3, 1) if program.layout == "NCHW" else images
        wanted = np.asarray(apply(model.variables, nhwc), np.float64)
        if not np.isfinite(wanted).all():
            raise InputError("the network gives logits that are not finite on images of noise; nothing was written")
        found = np.asarray(exported(images), np.float64)
        if found.shape != wanted.shape:
            raise InputError(
                f"{what} gives logits of shape {found.shape} where the network gives {wanted.shape}; nothing was written"
            )
        for columns in (~gone, gone):
            if columns.any():
                scale = max(np.abs(wanted[:, columns]).max(), np.finfo(np.float32).tiny)
                largest = max(largest, float(np.abs(found - wanted)[:, columns].max() / scale))
    if not largest <= TOLERANCE:  # NaN included
        raise InputError(
            f"{what} differs from the network by {largest:.1e} of the largest logit, more than {TOLERANCE:g}; nothing "
            "was written; choose another --format"
        )
    return largest
