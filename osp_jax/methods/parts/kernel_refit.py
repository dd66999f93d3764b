"""Refits the kernels that write the last features, so that these come near given targets, without a gradient step.

No linear map behind the ReLU could be folded into the network, so the maps in front of it are solved for: a feature is
linear in them where its ReLU is open, so each channel is a ridge regression of its own (Gauss-Newton; two rounds
suffice).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.interop.linen import linen_module
from osp_jax.methods.parts.moments import matmul
from osp_jax.model import Model
from osp_jax.networks import variable_shapes
from osp_jax.program.channels import Writer
from osp_jax.program.layer_inputs import Layer, input_rows
from osp_jax.program.tail import Tail
from osp_jax.runtime.distributed import everywhere
from osp_jax.runtime.errors import InputError
from osp_jax.trees import edited, leaves_by_path


def refit(
    variables: dict[str, Any],
    tail: Tail,
    factors: Mapping[str, jax.Array],
    kept: Sequence[list[jax.Array]],
    real: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    directions: int,
    ridge: float,
    rounds: int,
) -> dict[str, Any]:
    """Variables with kernels, and a bias, under which the spatial means of the last features come near `targets`.

    Args:
      tail, kept: the network from the kernels on, and by batch what it starts from.
      factors: as `norm_factors` has them.
      real: 0/1 `(batches, batch)`, 0 for rows that only fill up.
      targets: `(batches, batch, channels)`. weights: `(batches, batch)`, of the squared errors.
      directions: how many principal directions of what a kernel reads it may change in; 0: all.
      ridge: against a change, over the mean square of what is read.
      rounds: how often it is decided anew which ReLUs are open.
    """
    writers = tail.writers
    moments = _total(_moments(variables, *given, tail=tail) for given in zip(kept, real, strict=True))
    # In the order of the writers, which a compiled program's dictionary does not keep.
    bases = {w.kernel: principal_directions(moments[w.kernel] / real.sum(), directions) for w in writers}
    spread = jnp.concatenate([*(values for _, values in bases.values()), jnp.ones(1)])  # the bias reads 1
    biased = any("bias" in writer.leaves for writer in writers)
    change, new = jnp.zeros((len(spread), targets.shape[-1])), variables
    for _ in range(rounds):
        by_batch = zip(kept, weights, targets, strict=True)
        system = _total(_system(new, bases, change, *given, biased=biased, tail=tail) for given in by_batch)
        change = solve_ridge(*system, spread, ridge)
        new = edited(variables, changed_kernels(variables, writers, factors, bases, change))
    return new


@partial(jax.jit, static_argnames="directions")
def principal_directions(moment: jax.Array, directions: int) -> tuple[jax.Array, jax.Array]:
    """(orthonormal `(inputs, k)`, mean squares along them `(k,)`) of what a kernel reads, from its second moment."""
    values, vectors = jnp.linalg.eigh(moment)  # ascending
    k = min(directions or len(values), len(values))
    return vectors[:, -k:], jnp.maximum(values[-k:], 1e-6 * values[-1])


def solve_ridge(gram: jax.Array, product: jax.Array, spread: jax.Array, ridge: float) -> jax.Array:
    """x `(n, channels)` of (G_c + ridge diag(spread)) x_c = h_c, for G `(channels, n, n)` and h `(channels, n)`."""
    scale = jax.lax.rsqrt(spread)
    system = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(spread))
    return (jnp.linalg.solve(system, (product * scale)[..., None])[..., 0] * scale).T


def changed_kernels(
    variables: Any,
    writers: Sequence[Writer],
    factors: Mapping[str, jax.Array],
    bases: dict[str, Any],
    change: jax.Array,
) -> dict[str, jax.Array]:
    """The leaves, by path, that `change` `(directions of all kernels and 1, channels)` of the features makes new."""
    leaves, new, start = leaves_by_path(variables), {}, 0
    for writer in writers:
        directions, path = bases[writer.kernel][0], f"params/{writer.kernel}/kernel"
        piece = matmul(directions, change[start : start + directions.shape[1]])
        factor = factors[writer.path]
        piece = jnp.where(factor == 0, 0, piece / jnp.where(factor == 0, 1, factor))
        new[path] = leaves[path] + piece.reshape(leaves[path].shape)
        start += directions.shape[1]
    biases = [f"params/{writer.path}/bias" for writer in writers if "bias" in writer.leaves]
    for path in biases[-1:]:  # they are added up: one of them will do
        new[path] = leaves[path] + change[-1]
    return new


@partial(jax.jit, static_argnames="tail")
def _moments(variables: dict[str, Any], kept: list[jax.Array], real: jax.Array, *, tail: Tail) -> dict[str, jax.Array]:
    """By kernel the second moment of what it reads, a mean over positions and a sum over images, `(inputs, inputs)`."""
    found = _rows(tail, tail.late(variables, kept)[2])
    found = {path: rows * real[:, None, None] for path, rows in found.items()}
    return everywhere({path: jnp.einsum("npd,npe->de", rows, rows) / rows.shape[1] for path, rows in found.items()})


@partial(jax.jit, static_argnames=("tail", "biased"))
def _system(
    variables: dict[str, Any],
    bases: dict[str, Any],
    change: jax.Array,
    kept: list[jax.Array],
    weights: jax.Array,
    targets: jax.Array,
    *,
    tail: Tail,
    biased: bool,
) -> tuple[jax.Array, jax.Array]:
    """Gram matrices `(channels, n, n)` and products `(channels, n)` of the regressions, a sum over a batch.

    A regressor is what an input of the kernel (in a principal direction), or the bias, adds to a feature: its mean over
    the positions whose ReLU is open under `variables`, which have `change` in them. Where no writer is `biased`, the
    last regressor is 0, and so is its coefficient.
    """
    activations, _, inputs = tail.late(variables, kept)
    activations, rows = positions(activations), _rows(tail, inputs)
    root = jnp.sqrt(weights)[:, None]
    gates = (activations > 0) * root[..., None] / activations.shape[1]
    read = [matmul(rows[path], bases[path][0]) for path in tail.layers]
    read.append(jnp.full((*gates.shape[:2], 1), float(biased)))
    regressors = jnp.einsum("npr,npc->cnr", jnp.concatenate(read, -1), gates)
    regressors = jax.lax.optimization_barrier(regressors)  # fused into what follows they take twice the time on a CPU
    wanted = root * (targets - activations.mean(1)) + jnp.einsum("cnr,rc->nc", regressors, change)
    sums = jnp.einsum("cnr,cns->crs", regressors, regressors), jnp.einsum("cnr,nc->cr", regressors, wanted)
    return everywhere(sums)


def _rows(tail: Tail, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What each of the kernels multiplies, `(batch, positions, inputs)`, float32."""
    rows = {path: input_rows(Layer(tail.layers[path], read)).astype(jnp.float32) for path, read in inputs.items()}
    return {path: found.reshape(len(inputs[path]), -1, found.shape[-1]) for path, found in rows.items()}


def positions(activations: jax.Array) -> jax.Array:
    """float32 `(batch, positions, channels)`."""
    return activations.reshape(len(activations), -1, activations.shape[-1]).astype(jnp.float32)  # b (h w) c


def norm_factors(model: Model, writers: Sequence[Writer], image_shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """By writer's path what its norm multiplies each output of the kernel by, `(channels,)`; 1 where there is none."""
    epsilons, leaves, factors = _epsilons(linen_module(model), image_shape), leaves_by_path(model.variables), {}
    for writer in writers:
        if writer.path == writer.kernel:
            factors[writer.path] = jnp.ones(leaves[f"params/{writer.path}/kernel"].shape[-1])
        elif writer.path in epsilons:
            inverse = jax.lax.rsqrt(leaves[f"batch_stats/{writer.path}/var"] + epsilons[writer.path])
            factors[writer.path] = leaves.get(f"params/{writer.path}/scale", 1.0) * inverse
        else:
            raise InputError(f"{writer.path} is no batch norm, so no kernel in front of it can be refitted")
    return factors


@lru_cache(maxsize=16)
def _epsilons(module: nn.Module, image_shape: tuple[int, ...]) -> Mapping[str, float]:
    """Of every batch norm, by path."""
    found: dict[str, float] = {}

    def record(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm):
            found["/".join(context.module.path)] = context.module.epsilon
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        variable_shapes(module, image_shape)
    return found


def _total(terms: Iterable[Any]) -> Any:
    return reduce(partial(jax.tree.map, jnp.add), terms)
