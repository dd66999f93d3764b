"""The function that an exported program computes, and the check that the exported program gives the same logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.interop.linen import with_fields
from osp_jax.model import Model
from osp_jax.program.flat import evaluate, flatten, is_floating
from osp_jax.runtime.errors import InputError, one_line

TOLERANCE = 1e-4
"""The largest accepted difference of logits, relative to the largest logit."""

BATCHES = (1, 3)


class Program(NamedTuple):
    """`function(variables, images) -> logits`, both float32, and the shape of one image as the function takes it.

    `layout` is 'NHWC', or 'NCHW' for a network from PyTorch. `wanted(images)` are the logits that it must reproduce,
    and `detail` describes special features.
    """

    function: Callable[[Any, jax.Array], jax.Array]
    variables: Any
    image_shape: tuple[int, ...]
    layout: str
    wanted: Callable[[np.ndarray], jax.Array]
    detail: str


def program_of(model: Model, image_shape: tuple[int, ...]) -> Program:
    """The eval-mode program of a model, on normalised images.

    Our own convolutions for training on CPUs (`config.model.convolution`) are replaced by XLA's. A network that
    computes in bfloat16 is exported in float32, because compilers round bfloat16 differently.

    Args:
      image_shape: (height, width, channels).

    Raises:
      InputError: it cannot be traced for a symbolic batch size.
    """
    own = type(getattr(model.apply, "module", None)).__module__.startswith("osp_jax.networks.")
    apply, variables = (with_fields(model, convolution="xla") if own else model).apply, model.variables
    height, width, channels = image_shape
    channels_first = getattr(model.apply, "channels_first", False)
    layout, shape = ("NCHW", (channels, height, width)) if channels_first else ("NHWC", image_shape)
    axes = (0, 2, 3, 1) if channels_first else (0, 1, 2, 3)

    def function(variables: Any, images: jax.Array) -> jax.Array:
        images = jnp.transpose(images, axes) if channels_first else images
        return apply(variables, images).astype(jnp.float32)

    def in_float32(variables: Any, images: jax.Array) -> jax.Array:
        flat = flatten(function, variables, images)
        return evaluate(flat, [*jax.tree.leaves(variables), images], dtype=jnp.float32)[0][0]

    if _is_float32(function, variables, shape):
        original = jax.jit(model.apply)
        program = Program(
            function, variables, shape, layout, lambda images: original(variables, images.transpose(axes)), ""
        )
    else:
        wanted = partial(jax.jit(in_float32), variables)
        program = Program(in_float32, variables, shape, layout, wanted, "computed in float32")
    return _for_any_batch(program)


def _is_float32(function: Callable[..., jax.Array], variables: Any, image_shape: tuple[int, ...]) -> bool:
    """Whether no operation has another floating-point type."""
    one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    equations = flatten(function, variables, one).jaxpr.eqns
    dtypes = {atom.aval.dtype for equation in equations for atom in (*equation.invars, *equation.outvars)}
    return all(dtype == jnp.float32 for dtype in dtypes if is_floating(dtype))


def any_batch(program: Program) -> jax.ShapeDtypeStruct:
    """Images of a symbolic batch size."""
    # The constraint lets PyTorch's slices, as wide as the largest integer, end with the batch.
    (batch,) = jax.export.symbolic_shape("batch", constraints=("batch <= 2147483647",))
    return jax.ShapeDtypeStruct((batch, *program.image_shape), jnp.float32)


def _for_any_batch(program: Program) -> Program:
    """The program, or, if it needs a concrete number of images, as for `len(images)`, the program of one image mapped
    over them."""

    def mapped(variables: Any, images: jax.Array) -> jax.Array:
        return jax.vmap(lambda image: program.function(variables, image[None])[0])(images)

    one = jax.ShapeDtypeStruct((1, *program.image_shape), jnp.float32)
    jax.eval_shape(program.function, program.variables, one)
    for function in (program.function, mapped):
        try:
            jax.eval_shape(function, program.variables, any_batch(program))
        except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, AssertionError) as error:
            reason = one_line(str(error).partition("\n")[0])[:200]
        else:
            return program._replace(function=function)
    raise InputError(
        f"the network cannot be traced for any number of images ({reason}), so its program cannot be exported; "
        "let it use images.shape[0] as a size only, or export its weights"
    )


def check_logits(exported: Callable[[np.ndarray], Any], program: Program, gone: Sequence[int], what: str) -> float:
    """The largest difference between the logits of an exported program and those of the network, relative to the
    largest logit, on noise images in batches of 1 and 3. Logits of the classes `gone`, which are out of reach, are
    compared relative to themselves.

    Args:
      exported: images `(batch, *program.image_shape)` float32 to logits `(batch, classes)`.
      what: description of the export, for the error.

    Raises:
      InputError: it exceeds 1e-4, the shapes differ, or the logits are not finite.
    """
    rng, largest = np.random.default_rng(0), 0.0
    for batch in BATCHES:
        images = rng.normal(size=(batch, *program.image_shape)).astype(np.float32)
        right, found = (np.asarray(function(images), np.float64) for function in (program.wanted, exported))
        if not np.isfinite(right).all():
            raise InputError("the network gives logits that are not finite on images of noise; nothing was written")
        if found.shape != right.shape:
            raise InputError(
                f"{what} gives logits of shape {found.shape}, the network {right.shape}; nothing was written"
            )
        is_gone = np.isin(np.arange(right.shape[1]), gone)
        for columns in (~is_gone, is_gone):
            if columns.any():
                scale = max(np.abs(right[:, columns]).max(), np.finfo(np.float32).tiny)
                largest = max(largest, float(np.abs(found - right)[:, columns].max() / scale))
    if not largest <= TOLERANCE:  # also for NaN
        raise InputError(
            f"{what} differs from the network by {largest:.1e} of the largest logit, more than {TOLERANCE:g}; nothing "
            "was written; choose another --format"
        )
    return largest
