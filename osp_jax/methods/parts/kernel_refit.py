"""Refits the kernels that write the last features towards given targets, without gradient steps.

A linear map behind an activation cannot be folded into the network, so this solves for the kernels in front of it.
Channel by channel, a feature is almost linear in them: its derivative by the kernel's output, position by position, is
that of the operations between them (for a ReLU, 1 where it is active). So each channel is a separate ridge regression
(Gauss-Newton; two rounds suffice). Behind a norm over channels, each image keeps its own mean and deviation; the
features are then linear in the kernels, and one round suffices.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.methods.parts.moments import matmul, tree_sum
from osp_jax.methods.parts.principal_directions import moment_products, principal_directions, sketch_of
from osp_jax.program.layer_inputs import kernel_matrix, outputs_of, write_matrix
from osp_jax.program.tail import Ends, Tail, Writer, by_image, products_of, rows_of
from osp_jax.runtime.distributed import everywhere
from osp_jax.trees import edited, leaves_by_path


@dataclasses.dataclass(frozen=True, eq=False)
class Response:
    """How a writer's output reaches the features, under given variables.

    Attributes:
      factor: the factor on each channel before the first operation that is not affine, float32 `(channels,)`.
      positions: the positions of the output that the features depend on, ascending.
      bias: path of the leaf that shifts the channels there, or None.
      bias_factor: the factor on this leaf, `(channels,)`.
    """

    factor: jax.Array
    positions: tuple[int, ...]
    bias: str | None
    bias_factor: jax.Array


def refit(
    variables: Any,
    tail: Tail,
    kept: Sequence[list[jax.Array]],
    real: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    directions: int,
    ridge: float,
    rounds: int,
) -> Any:
    """Returns variables whose kernels, and a bias, bring the last features close to `targets`.

    Args:
      tail, kept: the network from the kernels on, and its inputs by batch.
      real: 0/1 `(batches, batch)`, 0 for padding.
      targets: `(batches, batch, features)`.
      weights: `(batches, batch)`, of the squared errors.
      directions: number of principal directions of a kernel's input in which it may change; 0: all.
      ridge: penalty on the change, relative to the mean square of the input.
      rounds: how often derivatives are recomputed, if no norm over channels follows.
    """
    responses = measured(variables, tail, kept[0])
    chosen = tuple(response.positions for response in responses)
    factors = [response.factor for response in responses]
    of_some = _enough(tail, list(zip(kept, real, strict=True)), chosen)
    sketches = [sketch_of(writer.layer.inputs, directions) for writer in tail.writers]
    moments, slopes = tree_sum(_moments(variables, factors, sketches, *b, tail=tail, positions=chosen) for b in of_some)
    number = sum(weights.sum() for _, weights in of_some)
    bases = [principal_directions(m / number, sketch, directions) for m, sketch in zip(moments, sketches, strict=True)]
    scale = jnp.sqrt(slopes / number) if tail.normalised else jnp.ones_like(slopes)
    scale = jnp.where(scale > 0, scale, 1)
    groups = _groups(tail.writers)
    biased = tuple(any(responses[w].bias for w in group) for group in groups)
    spreads = [jnp.concatenate([*(bases[w][1] for w in group), jnp.ones(1)]) for group in groups]  # the bias reads 1
    changes = [jnp.zeros((len(s), tail.writers[g[0]].layer.outputs)) for s, g in zip(spreads, groups, strict=True)]
    new = variables
    system = partial(_system, tail=tail, positions=chosen, biased=biased)
    reads = [_read(variables, [b for b, _ in bases], values, tail=tail, positions=chosen) for values in kept]
    for _ in range(1 if tail.normalised else rounds):
        by_batch = zip(kept, reads, weights, targets, strict=True)
        sums = tree_sum(system(new, factors, changes, scale, *given) for given in by_batch)
        changes = [solve_ridge(*pair, spread, ridge) for pair, spread in zip(sums, spreads, strict=True)]
        new = edited(variables, changed_leaves(variables, tail.writers, responses, bases, changes))
    return new


def solve_ridge(gram: jax.Array, product: jax.Array, spread: jax.Array, ridge: float) -> jax.Array:
    """x `(n, channels)` of (G_c + ridge diag(spread)) x_c = h_c, for G `(channels, n, n)` and h `(channels, n)`."""
    scale = jax.lax.rsqrt(spread)
    system = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(spread))
    return (jnp.linalg.solve(system, (product * scale)[..., None])[..., 0] * scale).T


def changed_leaves(
    variables: Any,
    writers: Sequence[Writer],
    responses: Sequence[Response],
    bases: Sequence[tuple[jax.Array, jax.Array]],
    changes: Sequence[jax.Array],
) -> dict[str, jax.Array]:
    """The new leaves, by path, for changes of the features; `changes`: by group of writers of the same features,
    `(directions of all their kernels and 1, channels)`."""
    leaves, new = leaves_by_path(variables), {}
    for group, change in zip(_groups(writers), changes, strict=True):
        start = 0
        for w in group:
            directions, layer = bases[w][0], writers[w].layer
            piece = matmul(directions, change[start : start + directions.shape[1]])
            start += directions.shape[1]
            matrix = kernel_matrix(layer, leaves[layer.path]) + _divided(piece, responses[w].factor)
            new[layer.path] = write_matrix(layer, leaves[layer.path], matrix)
        biased = [responses[w] for w in group if responses[w].bias]
        for response in biased[-1:]:  # biases add up, so one suffices
            leaf = leaves[response.bias]
            new[response.bias] = leaf + _divided(change[-1], response.bias_factor).reshape(leaf.shape)
    return new


def measured(variables: Any, tail: Tail, kept: list[jax.Array]) -> list[Response]:
    """One `Response` per writer, from a batch."""
    factors, biases, reached = _measured(variables, kept, jnp.float32(1), tail=tail)
    responses = []
    for w, writer in enumerate(tail.writers):
        found = [(path, *biases[w][path]) for path in writer.biases]
        fitting = [(path, factor) for path, factor, error in found if bool(error < 1e-3)]
        path, factor = fitting[-1] if fitting else (None, jnp.ones(writer.layer.outputs))
        positions = np.flatnonzero(np.asarray(reached[w]))
        responses.append(Response(factors[w], tuple(positions.tolist()), path, factor))
    return responses


@partial(jax.jit, static_argnames="tail")
def _measured(variables: Any, kept: list[jax.Array], one: jax.Array, *, tail: Tail) -> Any:
    """By writer: factors; for each candidate bias (its factor, its distance from a shift of each channel alone, as a
    share of its largest entry); 0/1 whether a position reaches the features.

    `one`: 1, as an argument, so that the compiler does not evaluate constant derivatives.
    """
    ends, none = tail.late((variables, tail.no_shifts()), kept), tail.no_shifts()
    leaves = leaves_by_path(variables)

    def streams(shifts: Any, changes: Mapping[str, jax.Array]) -> list[jax.Array]:
        return tail.late((edited(variables, changes), shifts), kept).streams

    factors, biases = [], []
    for w, writer in enumerate(tail.writers):
        ones = [jnp.full_like(shift, one) if w == i else shift for i, shift in enumerate(none)]
        derivative = jax.jvp(lambda shifts: streams(shifts, {})[w], (none,), (ones,))[1]  # noqa: B023
        factors.append(_largest(derivative.reshape(-1, derivative.shape[-1]).astype(jnp.float32)))
        tried = partial(_as_bias, streams, leaves, none, w, writer, one)
        biases.append({path: tried(path) for path in writer.biases})
    # Shifts that activate and deactivate every activation, so that no position is left out by chance.
    keys = jax.random.split(jax.random.key(0), len(none))
    noise = [
        10 * jnp.sqrt(jnp.mean(output.astype(jnp.float32) ** 2)).astype(shift.dtype)
        * jax.random.normal(key, shift.shape, shift.dtype)
        for key, shift, output in zip(keys, none, ends.outputs, strict=True)
    ]  # fmt: skip
    _, derivatives = derivatives_of(variables, kept, noise, tail=tail)
    return everywhere((factors, biases, [jnp.any(d != 0, axis=(0, 2)) for d in derivatives]))


def _as_bias(
    streams: Any, leaves: Any, none: Any, w: int, writer: Writer, one: jax.Array, path: str
) -> tuple[jax.Array, jax.Array]:
    leaf = leaves[path]
    tangents = jnp.full(leaf.shape, one), one + jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size
    plain, graded = (
        jax.jvp(lambda leaf: streams(none, {path: leaf})[w], (leaf,), (t.astype(leaf.dtype),))[1] for t in tangents
    )
    plain, graded = (d.reshape(-1, writer.layer.outputs).astype(jnp.float32) for d in (plain, graded))
    factor = plain[0]
    wrong = jnp.maximum(jnp.abs(plain - factor).max(), jnp.abs(graded - factor * tangents[1].ravel()).max())
    return factor, jnp.nan_to_num(wrong / jnp.abs(factor).max(), nan=1.0)


def derivatives_of(
    variables: Any, kept: list[jax.Array], shifts: list[jax.Array], *, tail: Tail
) -> tuple[Ends, list[jax.Array]]:
    """(outputs of the tail; by writer the derivative of each feature by its own channel of the writer's output, float32
    `(batch, positions, channels)`)."""

    def features(shifts: list[jax.Array]) -> tuple[jax.Array, Ends]:
        ends = tail.late((variables, shifts), kept)
        return ends.features, ends

    values, pull, ends = jax.vjp(features, shifts, has_aux=True)
    (found,) = pull(jnp.ones_like(values))
    found = [
        by_image(writer, outputs_of(writer.layer, d).astype(jnp.float32), len(values))
        for writer, d in zip(tail.writers, found, strict=True)
    ]
    return ends, found


@partial(jax.jit, static_argnames=("tail", "positions"))
def _moments(
    variables: Any,
    factors: list[jax.Array],
    sketches: list[jax.Array | None],
    kept: list[jax.Array],
    real: jax.Array,
    *,
    tail: Tail,
    positions: tuple[tuple[int, ...], ...],
) -> tuple[list[jax.Array], jax.Array]:
    """(by writer the second moment of its kernel's input, a mean over positions, `(inputs, inputs)`, or its product
    with a sketch; the squared derivative of each feature by a shift, `(features,)`); sums over images."""
    ends, derivatives = derivatives_of(variables, kept, tail.no_shifts(), tail=tail)
    moments, slopes = [], jnp.zeros(ends.features.shape[-1])
    for w, (writer, where) in enumerate(zip(tail.writers, positions, strict=True)):
        rows = _rows(ends, tail, w, where) * real[:, None, None]
        moments.append(moment_products(rows, sketches[w]) / rows.shape[1])
        slope = _divided(derivatives[w].sum(1), factors[w])
        slopes = slopes.at[writer.features].set(jnp.sum(real[:, None] * slope**2, 0))
    return everywhere((moments, slopes))


@partial(jax.jit, static_argnames=("tail", "positions"))
def _read(
    variables: Any,
    bases: list[jax.Array],
    kept: list[jax.Array],
    *,
    tail: Tail,
    positions: tuple[tuple[int, ...], ...],
) -> list[jax.Array]:
    """Inputs of each kernel along its directions, `(batch, positions, directions)`; the refit does not change them."""
    ends = tail.late((variables, tail.no_shifts()), kept)
    given = zip(tail.writers, ends.reads, ends.outputs, bases, strict=True)
    found = [products_of(writer, read, output, len(ends.features), basis) for writer, read, output, basis in given]
    return everywhere([_at(rows, where) for rows, where in zip(found, positions, strict=True)])


@partial(jax.jit, static_argnames=("tail", "positions", "biased"))
def _system(
    variables: Any,
    factors: list[jax.Array],
    changes: list[jax.Array],
    scale: jax.Array,
    kept: list[jax.Array],
    reads: list[jax.Array],
    weights: jax.Array,
    targets: jax.Array,
    *,
    tail: Tail,
    positions: tuple[tuple[int, ...], ...],
    biased: tuple[bool, ...],
) -> list[tuple[jax.Array, jax.Array]]:
    """Gram matrices `(channels, n, n)` and products `(channels, n)` of the regressions by group of writers, sums over a
    batch.

    A regressor is the contribution of a kernel input (along a principal direction) or of the bias to a feature: its
    mean over the positions, weighted by the feature's derivative under `variables`, which include `changes`. If no
    writer has a bias, the last regressor and its coefficient are 0.
    """
    ends, derivatives = derivatives_of(variables, kept, tail.no_shifts(), tail=tail)
    root, systems = jnp.sqrt(weights)[:, None], []
    for group, change, with_bias in zip(_groups(tail.writers), changes, biased, strict=True):
        regressors, own = [], tail.writers[group[0]].features
        for w in group:
            slopes = _divided(derivatives[w][:, np.asarray(positions[w])], factors[w] * scale[own]) * root[..., None]
            regressors.append(jnp.einsum("npr,npc->cnr", reads[w], slopes))
        shift = jnp.einsum("npc->cn", slopes)[..., None] * float(with_bias)
        regressors = jnp.concatenate([*regressors, shift], -1)
        regressors = jax.lax.optimization_barrier(regressors)  # fusion with the following code doubles their time
        wanted = root * (targets - ends.features)[:, own] / scale[own]
        wanted += jnp.einsum("cnr,rc->nc", regressors, change)
        systems.append(
            (jnp.einsum("cnr,cns->crs", regressors, regressors), jnp.einsum("cnr,nc->cr", regressors, wanted))
        )
    return everywhere(systems)


def _enough(
    tail: Tail, batches: list[tuple[list[jax.Array], jax.Array]], positions: Sequence[Sequence[int]]
) -> list[tuple[list[jax.Array], jax.Array]]:
    """Batches from both ends (the forgotten may come last), enough for twenty rows per input; or all."""
    counts = [int(real.sum()) for _, real in batches]
    pairs = zip(tail.writers, positions, strict=True)
    needed = max(20 * writer.layer.inputs / len(where) for writer, where in pairs)
    for number in range(1, len(batches) // 2 + 1):
        if sum(counts[:number] + counts[-number:]) >= needed:
            return batches[:number] + batches[-number:]
    return batches


def _rows(ends: Ends, tail: Tail, w: int, where: tuple[int, ...]) -> jax.Array:
    """The rows that a writer's kernel multiplies at the given positions, `(batch, positions, inputs)`, float32."""
    return _at(rows_of(tail.writers[w], ends.reads[w], ends.outputs[w], len(ends.features)), where)


def _at(rows: jax.Array, where: tuple[int, ...]) -> jax.Array:
    return rows if len(where) == rows.shape[1] else rows[:, np.asarray(where)]


def _groups(writers: Sequence[Writer]) -> list[list[int]]:
    """Numbers of the writers, grouped by the features they write."""
    starts = sorted({writer.start for writer in writers})
    return [[w for w, writer in enumerate(writers) if writer.start == start] for start in starts]


def _divided(values: jax.Array, factor: jax.Array) -> jax.Array:
    """The quotient; 0 where `factor` is 0."""
    return jnp.where(factor == 0, 0, values / jnp.where(factor == 0, 1, factor))


def _largest(values: jax.Array) -> jax.Array:
    """The entry of largest magnitude in each column."""
    return jnp.take_along_axis(values, jnp.abs(values).argmax(0)[None], 0)[0]
