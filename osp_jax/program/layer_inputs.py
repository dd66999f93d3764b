"""What each convolution and dense layer reads, as the matrix that its kernel multiplies.

A dense layer multiplies vectors; a convolution multiplies the patches of its input map. Either way
`output = rows @ kernel.reshape(-1, outputs) + bias`, which is what methods that change kernels by projections need.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct, traverse_util
from jax import lax

_COLLECTION = "layer_inputs"


@struct.dataclass
class Layer:
    """A layer, unbound, and what it read, `(batch, ..., channels)`."""

    module: nn.Conv | nn.Dense = struct.field(pytree_node=False)
    inputs: jax.Array


def layer_inputs(model: nn.Module, variables: dict[str, Any], images: jax.Array) -> dict[str, tuple[Layer, ...]]:
    """One eval-mode forward pass: by module path what each call of the layer read (one call, unless it is shared).

    Of the kinds `nn.Dense` and `nn.Conv`; convolutions whose kernel multiplies something else than the patches of their
    input (grouped ones, with a dilated input or a masked kernel) are left out. Jittable.

    Args:
      images: normalised, `(batch, h, w, c)`.
    """

    def record(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__" and _multiplies_rows(module):
            # As a variable, with the module in its structure, it also leaves blocks under jit and rematerialisation.
            (inputs,) = (*args, *kwargs.values())
            module.sow(_COLLECTION, "read", Layer(module.clone(parent=None), inputs))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        _, state = model.apply(variables, images, False, mutable=[_COLLECTION])
    found = traverse_util.flatten_dict(state.get(_COLLECTION, {}))
    return {"/".join(path): layers for (*path, _), layers in found.items()}


def input_rows(layer: Layer) -> jax.Array:
    """The rows that the layer's kernel multiplies, `(positions, kernel.size / outputs)`, image after image.

    Their entries are in the order of `kernel.reshape(-1, outputs)`, and of the dtype that the layer computes in.
    """
    inputs = layer.inputs
    if isinstance(layer.module, nn.Conv):
        # The layer itself lays out its patches, so that strides, dilation and every kind of padding are its own.
        conv = layer.module.clone(use_bias=False, conv_general_dilated=_patches, conv_general_dilated_cls=None)
        shape = (*_sizes(conv), inputs.shape[-1], conv.features)
        inputs = conv.apply({"params": {"kernel": jnp.zeros(shape, conv.param_dtype)}}, inputs)
    return inputs.reshape(-1, inputs.shape[-1])


def _multiplies_rows(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv):
        dilated = not np.all(np.equal(module.input_dilation or 1, 1))
        return module.feature_group_count == 1 and module.mask is None and not dilated
    return isinstance(module, nn.Dense)


def _sizes(conv: nn.Conv) -> tuple[int, ...]:
    return (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)


def _patches(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, *, rhs_dilation: Any, **_: Any
) -> jax.Array:
    """In place of `lax.conv_general_dilated`: b h w c -> b oh ow (kh kw c).

    Slices, since `lax.conv_general_dilated_patches` takes five times as long on a CPU.
    """
    sizes, dilation = kernel.shape[:-2], rhs_dilation
    extents = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:-1], extents, strides, padding)
    inputs = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    rooms = [n - e + 1 for n, e in zip(inputs.shape[1:-1], extents, strict=True)]

    def shifted(offsets: tuple[int, ...]) -> jax.Array:
        starts = (o * d for o, d in zip(offsets, dilation, strict=True))
        spans = (slice(start, start + room, s) for start, room, s in zip(starts, rooms, strides, strict=True))
        return inputs[(slice(None), *spans)]

    return jnp.concatenate([shifted(offsets) for offsets in itertools.product(*map(range, sizes))], axis=-1)
