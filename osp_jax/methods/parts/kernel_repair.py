"""Repairs the kernels between two stages, so that their outputs on retained images stay as they were.

Each kernel is one ridge regression over positions, shared by all channels, in program order. A repair by pooled
features alone does not restore the later stages.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.methods.parts.moments import matmul, tree_sum
from osp_jax.program.layer_inputs import kernel_matrix, outputs_of, write_matrix
from osp_jax.program.tail import Inner, Tail, by_image, rows_of
from osp_jax.runtime.distributed import everywhere
from osp_jax.trees import edited, leaves_by_path

_POSITIONS = 8  # per image; different ones in each image


def repaired(
    old: Any, new: Any, tail: Tail, kept: Sequence[list[jax.Array]], weights: jax.Array, *, ridge: float
) -> Any:
    """Returns `new` with the kernels `tail.front` refitted to their outputs under the variables `old`.

    Args:
      kept: by batch, the inputs of the tail.
      weights: `(batches, batch)`, of the squared errors.
      ridge: penalty on the change, relative to the mean square of the input.
    """
    batches = [given for given in zip(kept, weights, strict=True) if bool(given[1].any())]
    for place, inner in enumerate(tail.front):
        gram, product = tree_sum(_system(old, new, *given, tail=tail, place=place) for given in batches)
        spread = jnp.maximum(jnp.diag(gram), 1e-3 * jnp.diag(gram).max())
        change = jnp.linalg.solve(gram + ridge * jnp.diag(spread), product)
        leaf = leaves_by_path(new)[inner.layer.path]
        new = edited(
            new, {inner.layer.path: write_matrix(inner.layer, leaf, kernel_matrix(inner.layer, leaf) + change)}
        )
    return new


@partial(jax.jit, static_argnames=("tail", "place"))
def _system(
    old: Any, new: Any, kept: list[jax.Array], weights: jax.Array, *, tail: Tail, place: int
) -> tuple[jax.Array, jax.Array]:
    """The Gram matrix `(inputs, inputs)` and the product `(inputs, outputs)` of a regression, sums over a batch."""
    inner, count = tail.front[place], len(weights)
    before, now = (tail.late((variables, tail.no_shifts()), kept) for variables in (old, new))
    rows = _some(rows_of(inner, now.front_reads[place], now.front_outputs[place], count))
    before, now = (_some(_by_image(inner, ends.front_outputs[place], count)) for ends in (before, now))
    root = jnp.sqrt(weights / rows.shape[1])[:, None, None]
    rows, change = ((values * root).reshape(-1, values.shape[-1]) for values in (rows, before - now))
    return everywhere((matmul(rows.T, rows), matmul(rows.T, change)))


def _by_image(kernel: Inner, value: jax.Array, count: int) -> jax.Array:
    return by_image(kernel, outputs_of(kernel.layer, value).astype(jnp.float32), count)


def _some(values: jax.Array) -> jax.Array:
    """Some positions of `(batch, positions, n)`, evenly spaced, with a different start in every image."""
    batch, positions = values.shape[:2]
    count = min(_POSITIONS, positions)
    start = jnp.arange(batch)[:, None] * 3  # 3 shares no factor with the sides of most maps
    where = (start + jnp.arange(count) * (positions // count)) % positions
    return jnp.take_along_axis(values, where[..., None], 1)
