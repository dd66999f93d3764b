"""Refits the head's columns to given logits by ridge regression, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.methods.parts.head import head_changes, head_logits, head_of
from osp_jax.methods.parts.moments import matmul
from osp_jax.program.gates import Head


def refit_head(
    variables: Any, head: Head, inputs: jax.Array, logits: jax.Array, weights: jax.Array, *, ridge: float = 1e-4
) -> dict[str, jax.Array]:
    """The leaves of the head, by path, that map its `inputs` to approximately `logits`.

    Args:
      inputs: float32 `(..., features)`.
      logits: `(..., classes)`.
      weights: `(...,)`, of the squared errors.
      ridge: penalty on the change of the kernel, relative to the mean square of the inputs.
    """
    kernel, bias = head_of(variables, head)
    rows = inputs.reshape(-1, inputs.shape[-1])
    with_bias = float(head.bias is not None)
    rows = jnp.concatenate([rows, jnp.full((len(rows), 1), with_bias)], -1)
    wanted = (logits - head_logits(variables, head, inputs)).reshape(len(rows), -1)
    weighted = rows * (weights / weights.sum()).reshape(-1, 1)
    gram = matmul(weighted.T, rows)
    scale = ridge * jnp.trace(gram) / len(gram)
    change = jnp.linalg.solve(gram + scale * jnp.eye(len(gram)), matmul(weighted.T, wanted))
    return head_changes(variables, head, kernel + change[:-1], bias + change[-1])
