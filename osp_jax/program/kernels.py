"""What each kernel of a network puts out, by its path: products and convolutions with a leaf, with their bias, in front
of any norm."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths


def kernel_calls(program: Program) -> dict[str, tuple[int, int]]:
    """By path of each leaf that is a kernel, in the order of the program: number of the equation that reads it last, or
    of the sum with its bias, and axis of its output channels in the result."""
    found: dict[str, tuple[int, int]] = {}
    for number, side in program.kernels.items():
        path = program.kernel_leaf(number)
        if path is None:
            continue
        dot, convolution = program.dot(number), program.convolution(number)
        if convolution:
            axes = [convolution.outputs[1]]
        elif dot:
            shape = program.equations[number].outvars[0].aval.shape
            own = [axis for source, axis in dot.out_axes(side) if source in dot.free[side]]
            axes = [axis for axis in own if shape[axis] > 1] or own[-1:]
        if axes:
            found.pop(path, None)
            found[path] = _with_bias(program, number, axes[-1]), axes[-1]
    return found


def _with_bias(program: Program, number: int, axis: int) -> int:
    """The number of the sum of a kernel's output and a leaf with an entry a channel, if nothing else reads it."""
    output = program.equations[number].outvars[0]
    users = program.uses.get(output, [])
    if len(users) != 1 or output in program.outputs:
        return number
    equation = program.equations[users[0]]
    others = [atom for atom in equation.invars if atom is not output]
    if equation.primitive.name != "add" or len(others) != 1 or equation.outvars[0].aval.shape != output.aval.shape:
        return number
    leaf = program.moved_from(others[0])
    is_bias = isinstance(leaf, Var) and leaf in program.paths and leaf.aval.size == output.aval.shape[axis]
    return users[0] if is_bias else number


def kernel_outputs(
    apply: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    images: jax.Array,
    paths: Collection[str],
    factors: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One eval-mode forward pass: logits, and by path what the kernels put out, `(batch, ..., channels)`; jittable.

    Args:
      images: normalised, `(batch, h, w, c)`.
      paths: of kernels among the leaves of `variables`.
      factors: by path what an output is multiplied by, of its shape.

    Raises:
      InputError: no product or convolution of the network reads one of `paths`.
    """
    closed = flatten(apply, variables, images)
    calls = kernel_calls(Program(closed, leaf_paths(variables)))
    missing = next((path for path in paths if path not in calls), None)
    if missing is not None:
        raise InputError(f"the statistics do not fit the network: it reads no kernel {missing}; collect them anew")
    scale = {calls[path][0]: jnp.moveaxis(factor, -1, calls[path][1]) for path, factor in (factors or {}).items()}
    outputs, kept = evaluate(
        closed, [*jax.tree.leaves(variables), images], keep={calls[path][0] for path in paths}, scale=scale
    )
    return outputs[0], {path: jnp.moveaxis(kept[calls[path][0]], calls[path][1], -1) for path in paths}
