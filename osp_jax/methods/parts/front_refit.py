"""Kernels in front of the last ones, refitted so that what they give no longer tells the class.

Layer by layer, in program order. On retained images a kernel is asked to give what it gave before any change, less the
direction that tells the class apart; on forgotten images what it gives now without that direction, and moved to the
means of the classes that the image is taken for. Means and directions are those of the kernel's results, averaged over
positions. A kernel that only reads what changed is asked, on retained images, for what it gave. Each is one ridge
regression over positions, which all channels share.

The direction is that of least-squares concept erasure (Belrose et al., NeurIPS 2023, arXiv 2306.03819), among those
that leave the mean of the retained where it is: then no bias has to change.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from osp_jax.methods.parts.moments import class_means, matmul, tree_sum
from osp_jax.program.layer_inputs import kernel_matrix, outputs_of, write_matrix
from osp_jax.program.tail import Ends, Inner, Tail, Writer, by_image, rows_of
from osp_jax.runtime.distributed import everywhere
from osp_jax.trees import edited, leaves_by_path

_POSITIONS = 8  # of each image, others from image to image


class Sample(NamedTuple):
    """Images by batch: what the tail starts from, and `(batches, batch)` weights of the retained, weights of the
    forgotten (0 for others), and labels; `mixture` `(batches, batch, classes)` is what an image is taken for."""

    kept: Sequence[list[jax.Array]]
    retained: jax.Array
    forgotten: jax.Array
    labels: jax.Array
    mixture: jax.Array


def refit_front(variables: Any, tail: Tail, sample: Sample, *, ridge: float) -> Any:
    """Variables in which the kernels in front lost the direction, and the last ones are repaired on retained images."""
    new = variables
    for place in range(len(tail.front)):
        pairs = [_pooled(variables, new, kept, tail=tail, place=place) for kept in sample.kept]
        before, now = (jnp.stack(each) for each in zip(*pairs, strict=True))
        new = _refitted(variables, new, tail, ("front", place), sample, erasure(before, now, sample), ridge)
    for place in range(len(tail.writers)):
        new = _refitted(variables, new, tail, ("writers", place), sample, None, ridge)
    return new


class Erasure(NamedTuple):
    """What is taken from a result y and added to it: y - (y @ detectors) @ directions, `(channels, classes)` and
    `(classes, channels)`; `shifts` `(batches, batch, channels)`, 0 for retained images."""

    detectors: jax.Array
    directions: jax.Array
    shifts: jax.Array


def erasure(before: jax.Array, now: jax.Array, sample: Sample) -> Erasure:
    """The direction of each forgotten class in `now`, and for forgotten images the way to the classes that they are
    taken for; means over positions `(batches, batch, channels)`, before any change and now."""
    classes, gone = sample.mixture.shape[-1], (sample.forgotten > 0).astype(jnp.float32)
    kept = (sample.retained > 0).astype(jnp.float32)
    mean, own = _mean(now, kept), class_means(now, sample.labels, gone, classes)
    present = jnp.any(jax.nn.one_hot(sample.labels, classes) * gone[..., None] > 0, (0, 1))
    directions = jnp.where(present[:, None], own - mean, 0)
    rows = ((now - _mean(now, kept + gone)) * (kept + gone)[..., None]).reshape(-1, now.shape[-1])
    covariance = matmul(rows.T, rows) / (kept + gone).sum()
    covariance += 1e-4 * jnp.trace(covariance) / len(mean) * jnp.eye(len(mean))
    held = jnp.concatenate([directions, mean[None]])  # each direction is taken out, the mean of the retained stays
    solved = jax.scipy.linalg.solve(covariance, held.T, assume_a="pos")  # channels classes+1
    inner = held @ solved + jnp.diag(jnp.append(1.0 - present, 0))
    inner += jnp.diag(1e-6 * jnp.diag(inner) + 1e-20)
    detectors = jnp.linalg.solve(inner.T, solved.T).T[:, :-1] * present
    means = class_means(before, sample.labels, kept, classes)
    shifts = (sample.mixture @ means - _mean(before, kept)) * gone[..., None]
    return Erasure(detectors, directions, shifts)


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum("bnc,bn->c", values, weights) / jnp.maximum(weights.sum(), 1)


def _refitted(
    old: Any, new: Any, tail: Tail, at: tuple[str, int], sample: Sample, wanted: Erasure | None, ridge: float
) -> Any:
    layer = getattr(tail, at[0])[at[1]].layer
    system = partial(_system, tail=tail, at=at)
    nothing = None if wanted is None else (wanted.detectors, wanted.directions)
    sums = []
    for number, (kept, *weights) in enumerate(zip(sample.kept, sample.retained, sample.forgotten, strict=True)):
        shifts = None if wanted is None else wanted.shifts[number]
        sums.append(system(old, new, kept, *weights, nothing, shifts))
    gram, product = tree_sum(sums)
    spread = jnp.maximum(jnp.diag(gram), 1e-3 * jnp.diag(gram).max())
    change = jnp.linalg.solve(gram + ridge * jnp.diag(spread), product)
    leaf = leaves_by_path(new)[layer.path]
    return edited(new, {layer.path: write_matrix(layer, leaf, kernel_matrix(layer, leaf) + change)})


@partial(jax.jit, static_argnames=("tail", "at"))
def _system(
    old: Any,
    new: Any,
    kept: list[jax.Array],
    retained: jax.Array,
    forgotten: jax.Array,
    erased: tuple[jax.Array, jax.Array] | None,
    shifts: jax.Array | None,
    *,
    tail: Tail,
    at: tuple[str, int],
) -> tuple[jax.Array, jax.Array]:
    """The Gram matrix `(inputs, inputs)` and the product `(inputs, outputs)` of a regression, sums over a batch."""
    count = len(retained)
    before, now = (tail.late((variables, tail.no_shifts()), kept) for variables in (old, new))
    kernel, _, before = _of(tail, before, at)
    _, read, now = _of(tail, now, at)
    rows = _some(rows_of(kernel, read, now, count))
    before, now = (_some(_by_image(kernel, value, count)) for value in (before, now))
    gone = (forgotten > 0)[:, None, None]
    targets = jnp.where(gone, now, before)
    if erased is not None:
        targets -= (targets @ erased[0]) @ erased[1]
        targets += shifts[:, None]
    weights = (retained + (forgotten if erased is not None else 0)) / rows.shape[1]
    root = jnp.sqrt(weights)[:, None, None]
    rows, change = (rows * root).reshape(-1, rows.shape[-1]), ((targets - now) * root).reshape(-1, now.shape[-1])
    return everywhere((matmul(rows.T, rows), matmul(rows.T, change)))


@partial(jax.jit, static_argnames=("tail", "place"))
def _pooled(old: Any, new: Any, kept: list[jax.Array], *, tail: Tail, place: int) -> tuple[jax.Array, jax.Array]:
    """What a kernel in front gives, before and now, means over positions `(batch, channels)`."""
    inner, found = tail.front[place], []
    for variables in (old, new):
        ends = tail.late((variables, tail.no_shifts()), kept)
        found.append(_by_image(inner, ends.front_outputs[place], len(ends.features)).mean(1))
    return everywhere(tuple(found))


def _of(tail: Tail, ends: Ends, at: tuple[str, int]) -> tuple[Inner | Writer, jax.Array, jax.Array]:
    """(the kernel, what it reads, its result)."""
    kind, place = at
    if kind == "front":
        return tail.front[place], ends.front_reads[place], ends.front_outputs[place]
    return tail.writers[place], ends.reads[place], ends.outputs[place]


def _by_image(kernel: Inner | Writer, value: jax.Array, count: int) -> jax.Array:
    return by_image(kernel, outputs_of(kernel.layer, value).astype(jnp.float32), count)


def _some(values: jax.Array) -> jax.Array:
    """Some positions of `(batch, positions, n)`, evenly apart, that begin elsewhere in every image."""
    batch, positions = values.shape[:2]
    count = min(_POSITIONS, positions)
    start = jnp.arange(batch)[:, None] * 3  # 3 shares no factor with the sides of most maps
    where = (start + jnp.arange(count) * (positions // count)) % positions
    return jnp.take_along_axis(values, where[..., None], 1)
