"""The kernels of a network by path, products and convolutions with a leaf: their layouts and their outputs, with bias,
in front of any norm."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from osp_jax.program import labels
from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths


class KernelAxes(NamedTuple):
    """The layout of a kernel in its leaf, without axes of size 1.

    Attributes:
      inputs: axes that are summed over, except positions.
      outputs: axes of the outputs.
      window: for a convolution, its spatial axes in order, None for one of size 1; () for a product.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: tuple[int | None, ...]


def kernel_axes(
    apply: Callable[[Any, jax.Array], jax.Array], variables: Any, image_shape: Sequence[int]
) -> dict[str, KernelAxes]:
    """The axes of each leaf that is a kernel, by path, in leaf order.

    Kernels that are part of a leaf, and leaves that are read in two layouts, are left out.

    Args:
      variables: a pytree of arrays or shapes.
      image_shape: `(h, w, c)`.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda variables: variables, variables))
    return dict(_kernel_axes(apply, tuple(leaves), structure, tuple(image_shape)))


@lru_cache(maxsize=32)
def _kernel_axes(
    apply: Callable[[Any, jax.Array], jax.Array],
    leaves: tuple[jax.ShapeDtypeStruct, ...],
    structure: Any,
    image_shape: tuple[int, ...],
) -> tuple[tuple[str, KernelAxes], ...]:
    variables, images = jax.tree.unflatten(structure, leaves), jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    program = Program(flatten(apply, variables, images), leaf_paths(variables))
    found: dict[str, set[KernelAxes | None]] = {}
    for number in program.kernels:
        path = program.kernel_leaf(number)
        if path is not None:
            found.setdefault(path, set()).add(_axes_of(program, number, path))
    axes = {path: next(iter(each)) for path, each in found.items() if len(each) == 1}
    return tuple((path, axes[path]) for path in program.leaves if axes.get(path) is not None)


def _axes_of(program: Program, number: int, path: str) -> KernelAxes | None:
    """The axes of the leaf at `path`, if the product or convolution `number` reads all of it."""
    side = program.kernels[number]
    kernel, dot, convolution = program.equations[number].invars[side], program.dot(number), program.convolution(number)
    if kernel.aval.size != program.leaves[path].aval.size:
        return None
    if convolution:
        inputs, outputs, window = convolution.kernel[1:2], convolution.kernel[:1], convolution.kernel[2:]
    elif dot:
        inputs, outputs, window = dot.contract[side], dot.free[side], ()
    else:
        return None
    named: list[list[int | None]] = []
    for axes in (inputs, outputs, window):
        own = [_axis_behind(program, kernel, axis, path) for axis in axes]
        if any(found is None and kernel.aval.shape[axis] > 1 for found, axis in zip(own, axes, strict=True)):
            return None
        named.append(own)
    first, second = (tuple(axis for axis in own if axis is not None) for own in named[:2])
    return KernelAxes(first, second, tuple(named[2]))


def _axis_behind(program: Program, kernel: Any, axis: int, path: str) -> int | None:
    """The axis of a leaf that an axis of a kernel is; None if that has size 1, or is no single one."""
    shape = kernel.aval.shape
    behind = program.leaves_behind({kernel: labels.along(len(shape), axis, shape[axis])}) or {}
    varying = labels.varying(behind[path]) if path in behind else []
    return varying[0] if len(varying) == 1 else None


def kernel_calls(program: Program) -> dict[str, tuple[int, int]]:
    """By path of each kernel leaf, in program order: number of the equation that reads it last, or of the sum with its
    bias, and the axis of its output channels in the result."""
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
    """The number of the sum of a kernel's output and a leaf with one entry per channel, if nothing else reads it."""
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
    """One eval-mode forward pass: logits, and the outputs of kernels by path, `(batch, ..., channels)`; jittable.

    Args:
      images: normalised, `(batch, h, w, c)`.
      paths: kernels among the leaves of `variables`.
      factors: by path, an array to multiply an output by, of its shape.

    Raises:
      InputError: no product or convolution of the network reads one of `paths`.
    """
    closed = flatten(apply, variables, images)
    calls = kernel_calls(Program(closed, leaf_paths(variables)))
    missing = next((path for path in paths if path not in calls), None)
    if missing is not None:
        raise InputError(f"the statistics do not fit the network: it reads no kernel {missing}; collect them again")
    scale = {calls[path][0]: jnp.moveaxis(factor, -1, calls[path][1]) for path, factor in (factors or {}).items()}
    outputs, kept = evaluate(
        closed, [*jax.tree.leaves(variables), images], keep={calls[path][0] for path in paths}, scale=scale
    )
    return outputs[0], {path: jnp.moveaxis(kept[calls[path][0]], calls[path][1], -1) for path in paths}
