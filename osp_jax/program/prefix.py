"""The first part of a network, computed once for many variables that differ only in later leaves."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.model import Model
from osp_jax.program.split_program import split_program
from osp_jax.runtime.distributed import everywhere


class Prefix(NamedTuple):
    """Outputs of the first part of a network for `count` images, batch by batch, and the `late` part, jitted."""

    late: Callable[[Any, list[jax.Array]], jax.Array]
    batches: list[list[jax.Array]]
    count: int


def compute_prefix(
    model: Model, split: Split, indices: np.ndarray, changing: Collection[str], batch_size: int = 500
) -> Prefix:
    """The part of `predict_logits` that is the same for all variables that differ only in the leaves `changing`.

    Args:
      changing: paths such as 'params/head/kernel'. If they are early in the network, this uses as much memory as the
        images take as float32; if they are late, less.
    """

    moments = jnp.asarray(model.mean), jnp.asarray(model.std)

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return everywhere(model.apply(variables, normalise(images, *moments)))

    halves, batches = None, []
    for images, _ in index_batches(split, indices, batch_size):
        if halves is None:
            halves = split_program(logits, model.variables, images, changing)
            early = jax.jit(halves.early)
        batches.append(early(model.variables, images))
    return Prefix(jax.jit(halves.late), batches, len(indices))


def logits_from(prefix: Prefix, variables: Any) -> np.ndarray:
    """The result of `predict_logits` for `variables`, at the cost of the late part of the network."""
    return np.concatenate([np.asarray(prefix.late(variables, values)) for values in prefix.batches])[: prefix.count]
