"""The end of a network: the kernels that write the last features, and what is left of the program behind them."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import normalise
from osp_jax.networks import variable_shapes
from osp_jax.program.channels import Channels, Writer, capture, capture_inputs
from osp_jax.program.layer_inputs import input_rows, layer_inputs
from osp_jax.program.split_program import split_program
from osp_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Tail:
    """`early`, jitted, takes `(variables, (uint8 images, mean, std))` up to the last kernels: arrays with a row
    an image. `late` takes `(variables, these)` on to (the last group's activations, the head's input, what each of
    `layers` reads). `writers` have the kernels, `layers` are their modules by path."""

    early: Callable[..., list[jax.Array]]
    late: Callable[..., tuple[jax.Array, jax.Array, dict[str, jax.Array]]]
    writers: tuple[Writer, ...]
    layers: Mapping[str, nn.Module]


@lru_cache(maxsize=16)
def tail_of(model: nn.Module, channels: Channels, batch: int, image_shape: tuple[int, ...]) -> Tail:
    """What follows from the kernels of `own_writers`, the biases behind them and the head; for batches of one size.

    Raises:
      InputError: there are no such kernels.
    """
    writers = own_writers(model, channels, image_shape)
    kernels, variables = [writer.kernel for writer in writers], variable_shapes(model, image_shape)

    def ends(variables: dict[str, Any], given: tuple[jax.Array, ...]) -> Any:
        activations, read = capture_inputs(model, variables, normalise(*given), channels, (channels.head, *kernels))
        return activations, read[channels.head], {path: read[path] for path in kernels}

    changing = {f"params/{path}/{leaf}" for path in (*kernels, channels.head) for leaf in ("kernel", "bias")}
    changing |= {f"params/{writer.path}/bias" for writer in writers}
    floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    given = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8), floats(image_shape[-1:]), floats(image_shape[-1:])
    early, late = split_program(ends, variables, given, changing)
    layers = jax.eval_shape(partial(layer_inputs, model), variables, floats((batch, *image_shape)))
    return Tail(jax.jit(early), late, writers, {path: layers[path][-1].module for path in kernels})


@lru_cache(maxsize=16)
def own_writers(model: nn.Module, channels: Channels, image_shape: tuple[int, ...]) -> tuple[Writer, ...]:
    """The writers of the last group whose kernel makes a channel of the features and no other.

    In a residual stream an earlier block writes the group, too, and what it writes is read by the later ones: a change
    of its kernel would reach all channels. Nor does a kernel count whose outputs are pooled before their ReLU.
    """
    # They follow from the program, whatever the values.
    draw = np.random.default_rng(0)
    shapes = variable_shapes(model, image_shape)
    variables = jax.tree.map(lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), shapes)
    image = draw.normal(size=(2, *image_shape)).astype(np.float32)
    layers, activations = jax.eval_shape(partial(_layers_and_activations, model, channels), variables, image)
    outputs = {path: math.prod(jax.eval_shape(input_rows, calls[-1]).shape[:-1]) for path, calls in layers.items()}
    positions = math.prod(activations.shape[:-1])
    alone = tuple(
        writer
        for writer in channels.last.writers
        if outputs.get(writer.kernel) == positions
        and not _crosstalk(variables, image, model=model, channels=channels, path=writer.kernel)
    )
    if not alone:
        raise InputError(f"no kernel alone writes what {channels.head} reads; choose a method that leaves the features")
    return alone


def _layers_and_activations(model: nn.Module, channels: Channels, variables: dict[str, Any], inputs: jax.Array) -> Any:
    return (
        layer_inputs(model, variables, inputs),
        capture(model, variables, inputs, channels)[1][channels.last.name],
    )


@partial(jax.jit, static_argnames=("model", "channels", "path"))
def _crosstalk(
    variables: dict[str, Any], inputs: jax.Array, *, model: nn.Module, channels: Channels, path: str
) -> jax.Array:
    """Whether a change of the kernel's first output changes another channel of the last group."""
    leaf = (*path.split("/"), "kernel")
    flat = traverse_util.flatten_dict(variables["params"])

    def others(kernel: jax.Array) -> jax.Array:
        params = traverse_util.unflatten_dict({**flat, leaf: kernel})
        return capture(model, {**variables, "params": params}, inputs, channels)[1][channels.last.name][..., 1:]

    tangent = jnp.zeros_like(flat[leaf]).at[..., 0].set(1)
    return jnp.any(jax.jvp(others, (flat[leaf],), (tangent,))[1] != 0)
