"""Finds the leaves of the variables that gate a channel, from the network's own program.

The gain of a channel, between 0 and 1, can be applied to the leaves that write the value, if every operation between
them is positively homogeneous, or to the kernels that read it, in their input axis. The traced program determines these
leaves (`scaling`), for any architecture; every gate is then verified on a few images by comparing masked variables with
scaled values.

Gates are the inputs of convolutions and of products with a kernel, at their origin: behind the activation, before
pooling and reshaping. The value of a residual stream that later blocks read is no gate, since its writers feed those
blocks too. The value that the head reads is always a gate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.kinds import is_text
from osp_jax.program import labels
from osp_jax.program.candidates import candidate_filters, candidate_groups, with_unique_names
from osp_jax.program.flat import evaluate, flatten, signature
from osp_jax.program.gate import Factor, Gate, Gates, Head, spread
from osp_jax.program.head import find_head
from osp_jax.program.proof import depends_on_batch, proved
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths

__all__ = [
    "Factor",
    "Gate",
    "Gates",
    "Head",
    "arranged",
    "capture",
    "find_gates",
    "gates_of",
    "noise_images",
    "spread",
    "traced",
]


def find_gates(apply: Callable[[Any, jax.Array], jax.Array], variables: Any, images: jax.Array) -> Gates:
    """Finds and verifies the gates of a network.

    Args:
      apply: `(variables, images) -> logits (batch, classes)`, pure, in eval mode.
      variables: any pytree of arrays.
      images: normalised, float, `(batch, h, w, c)`; a few, to verify the gates on.

    Raises:
      InputError: `apply` does not return logits, the network has no linear head, or its logits are not finite.
    """
    program = traced(apply, variables, images.shape[1:], images.dtype)
    number, head = find_head(program)
    groups, features = candidate_groups(program, number)
    filters = candidate_filters(program, number)
    found = proved([*groups, *filters], program, apply, variables, images)
    groups = with_unique_names([gate for gate in found[: len(groups)] if gate])
    filters = with_unique_names([gate for gate in found[len(groups) :] if gate])
    last = [gate for gate in groups if (gate.value, gate.axis) == features and gate.readers]
    if not last:
        raise InputError(
            "scaling the rows of the head's kernel changes the logits differently than scaling the features; "
            "`apply` must compute them in floating point, by one linear head"
        )
    operand = program.read_operand(number)
    (axis,) = labels.varying(program.summed_index(number)) or [len(operand.aval.shape) - 1]
    read = (number, 1 - program.kernels[number], axis, program.batch_axes[operand])
    return Gates(tuple(groups), tuple(filters), head, last[0].name, read, signature(program.closed))


def gates_of(apply: Callable[[Any, jax.Array], jax.Array], variables: Any, images: Any) -> Gates:
    """`find_gates`, cached by function and the shapes of its variables and images, since verification takes seconds.

    A function can declare its gates by `own_gates(variables, image_shape)`.

    Raises:
      InputError: as `find_gates`.
    """
    if hasattr(apply, "own_gates"):
        found = partial(apply.own_gates, variables, np.shape(images)[1:])
    else:
        found = partial(find_gates, apply, variables, jnp.asarray(images))
    leaves, structure = jax.tree.flatten(variables)
    shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in leaves)
    key = (apply, structure, shapes, np.shape(images)[1:])
    if key not in _FOUND:
        while len(_FOUND) >= _MOST_FOUND:
            _FOUND.pop(next(iter(_FOUND)))
        _FOUND[key] = found()
    return _FOUND[key]


_FOUND: dict[Any, Gates] = {}
_MOST_FOUND = 32


def noise_images(image_shape: tuple[int, ...]) -> np.ndarray:
    """A few images of normal noise, float32 `(batch, h, w, c)`, to verify gates on without data; for texts random ids,
    float32 `(batch, length)`; networks map ids beyond their vocabulary to the last one."""
    if is_text(image_shape):
        return np.random.default_rng(0).integers(0, 1000, size=(4, *image_shape)).astype(np.float32)
    return np.random.default_rng(0).normal(size=(4, *image_shape)).astype(np.float32)


def capture(
    apply: Callable[[Any, jax.Array], jax.Array], gates: Gates, variables: Any, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One eval-mode forward pass that also returns intermediate values; jittable.

    Returns:
      logits `(batch, classes)`; the value of each group by name, `(batch, ..., channels)`; the input of the head,
      `(batch, ..., features)`.

    Raises:
      InputError: the program differs from the one in which `gates` were found.
    """
    batch = len(images)
    images = images if batch > 1 else jnp.concatenate([images, images])  # the program for one image may differ
    program = flatten(apply, variables, images)
    if signature(program) != gates.program:
        raise InputError(
            "the network runs other operations on these images than on those that its gates were found on; "
            "find its gates with images of this shape"
        )
    *read, axis, batch_axis = gates.read
    keep = [tuple(read), *[group.value for group in gates.groups]]
    (logits,), kept = evaluate(program, [*jax.tree.leaves(variables), images], keep=keep)
    values = {group.name: arranged(kept[group.value], group.axis, group.batch_axis, images) for group in gates.groups}
    head_input = arranged(kept[tuple(read)], axis, batch_axis, images)
    return logits[:batch], {name: value[:batch] for name, value in values.items()}, head_input[:batch]


def traced(apply: Callable[..., jax.Array], variables: Any, image_shape: tuple[int, ...], dtype: Any) -> Program:
    """The program of a network for a few images.

    Raises:
      InputError: it depends on their number, or its result is not `(batch, classes)`.
    """
    shapes = jax.eval_shape(lambda variables: variables, variables)
    batches = [jax.ShapeDtypeStruct((count, *image_shape), dtype) for count in (2, 3)]
    flat, other = (flatten(apply, shapes, batch) for batch in batches)
    if signature(flat) != signature(other):
        raise depends_on_batch()
    outputs = [atom.aval.shape for atom in flat.jaxpr.outvars]
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][0] != 2:
        given = ", ".join(map(str, outputs)) or "nothing"
        raise InputError(f"the network gives {given} for 2 images; `apply` must return logits (batch, classes) alone")
    return Program(flat, leaf_paths(variables), other)


def arranged(value: jax.Array, axis: int, batch_axis: int, images: jax.Array) -> jax.Array:
    """Moves axes to (batch, ..., channels), and splits an axis in which positions follow images."""
    value = jnp.moveaxis(value, axis, -1)
    value = jnp.moveaxis(value, batch_axis - (batch_axis > axis), 0)
    batch = images.shape[0]
    return value if value.shape[0] == batch else value.reshape(batch, -1, *value.shape[1:])
