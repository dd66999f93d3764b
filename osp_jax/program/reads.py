"""What each kernel of a network multiplies, read off the traced program.

A dense layer multiplies vectors; a convolution multiplies the patches of its input map. Either way
`output = rows @ matrix + bias`, where the matrix is the kernel, in whatever layout the network keeps it, as
`(inputs, outputs)`. That is what methods that change kernels by projections need.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.program import labels
from osp_jax.program.flat import evaluate, flatten, signature
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths


@dataclasses.dataclass(frozen=True)
class Patches:
    """The patches of a convolution: axes of its input (batch, feature, ...), and of each spatial axis the size of the
    kernel, stride, padding before and behind, and dilation of the kernel."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Read:
    """One product or convolution of a kernel with what it reads.

    Attributes:
      kernel: path of the leaf.
      primitive: 'dot_general' or 'conv_general_dilated'.
      equation: its number in the flat program.
      operand: which operand it reads, 0 or 1.
      inputs: the axes of the leaf that are summed over, in order.
      outputs: the other axes of the leaf, in order.
      contracted: the axes of the operand that are summed over, in order; of a product.
      patches: of a convolution.
      program: digest of the flat program.
      order: which entry of a row as the operand gives it is the i-th as the leaf has it; () where they are in order.
    """

    kernel: str
    primitive: str
    equation: int
    operand: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    contracted: tuple[int, ...]
    patches: Patches | None
    program: str
    order: tuple[int, ...]


def find_reads(
    apply: Callable[[Any, jax.Array], jax.Array], variables: Any, image_shape: Sequence[int]
) -> tuple[Read, ...]:
    """The products of kernels that are leaves, in program order; a shared kernel has one for each of its calls.

    Left out are kernels that are computed from leaves, and those that multiply something else than vectors or patches:
    of grouped or transposed convolutions, and products with a batch axis of their own.

    Args:
      variables: arrays or shapes.
      image_shape: (h, w, c).
    """
    shapes = jax.eval_shape(lambda variables: variables, variables)
    closed = flatten(apply, shapes, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
    program = Program(closed, leaf_paths(variables))
    digest = signature(closed)
    return tuple(read for number in program.kernels if (read := _read(program, number, digest)) is not None)


def layer_reads(
    apply: Callable[[Any, jax.Array], jax.Array], reads: Sequence[Read], variables: Any, images: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """One eval-mode forward pass: the logits, and what each of `reads` multiplies, in the program's layout; jittable.

    Args:
      images: normalised, `(batch, h, w, c)`.

    Raises:
      InputError: the program is another one than `reads` were found in.
    """
    program = flatten(apply, variables, images)
    if any(read.program != signature(program) for read in reads[:1]):
        raise InputError(
            "the network does other operations on these images than on those its layers were found with; "
            "give at least two images at a time, of that shape"
        )
    keys = [(read.equation, read.operand) for read in reads]
    (logits,), kept = evaluate(program, [*jax.tree.leaves(variables), images], keep=keys)
    return logits, [kept[key] for key in keys]


def read_rows(read: Read, value: jax.Array) -> jax.Array:
    """The rows that the kernel multiplies, `(positions, inputs)`, image after image, in the order of `as_matrix`.

    Args:
      value: what `layer_reads` gives for `read`.
    """
    if read.patches:
        rows = _patches(read.patches, value)
    else:
        rows = jnp.moveaxis(value, read.contracted, range(value.ndim - len(read.contracted), value.ndim))
    size = math.prod(rows.shape[rows.ndim - max(1, len(read.contracted)) :])
    rows = rows.reshape(-1, size)
    return rows[:, np.asarray(read.order)] if read.order else rows


def as_matrix(read: Read, kernel: jax.Array) -> jax.Array:
    """A kernel, as the leaf has it, as `(inputs, outputs)`."""
    inputs = math.prod(kernel.shape[axis] for axis in read.inputs)
    return jnp.transpose(kernel, (*read.inputs, *read.outputs)).reshape(inputs, -1)


def from_matrix(read: Read, matrix: jax.Array, kernel: jax.Array) -> jax.Array:
    """The kernel of the matrix `(inputs, outputs)`, in the layout and the dtype of `kernel`."""
    axes = (*read.inputs, *read.outputs)
    shaped = matrix.reshape([kernel.shape[axis] for axis in axes])
    return jnp.transpose(shaped, np.argsort(axes)).astype(kernel.dtype)


def _read(program: Program, number: int, digest: str) -> Read | None:
    side = program.kernels[number]
    kernel = program.equations[number].invars[side]
    path = program.kernel_leaf(number)
    patches = _layout(program, number)
    dot = program.dot(number)
    if path is None or (patches is None and (dot is None or dot.batch[0])):
        return None
    if dot:
        summed = dot.contract[side]
    else:  # entries of a patch: positions, then features
        axes = program.convolution(number).kernel
        summed = (*axes[2:], axes[1])
    numbered = [_numbered(kernel.aval.shape, axes) for axes in (summed, _others(kernel.aval.shape, summed))]
    found = [program.leaves_behind({kernel: index}) for index in numbered]
    if any(leaves is None or (leaves and list(leaves) != [path]) for leaves in found):
        return None
    rows, columns = (leaves.get(path) for leaves in found)
    shape = program.leaves[path].aval.shape
    inputs = _axes_of(rows, shape)
    outputs = _axes_of(columns, shape)
    rest = [axis for axis, size in enumerate(shape) if size == 1 and axis not in (*inputs, *outputs)]
    if sorted((*inputs, *outputs, *rest)) != list(range(len(shape))):
        return None
    # An axis of size 1 goes where it changes no order.
    order = tuple(rows.ravel().tolist()) if rows is not None else (0,)
    if sorted(order) != list(range(len(order))) or len(order) != math.prod(kernel.aval.shape[a] for a in summed):
        return None
    primitive = "dot_general" if dot else "conv_general_dilated"
    contracted = tuple(dot.contract[1 - side]) if dot else ()
    order = () if order == tuple(range(len(order))) else order
    return Read(path, primitive, number, 1 - side, (*rest, *inputs), tuple(outputs), contracted, patches, digest, order)


def _numbered(shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Numbers the entries along some axes, the last of them fastest; the other axes are of size 1."""
    numbers = np.arange(math.prod(shape[axis] for axis in axes), dtype=np.int32)
    spread = numbers.reshape([shape[axis] for axis in axes] + [1] * (len(shape) - len(axes)))
    return spread.transpose(np.argsort([*axes, *_others(shape, axes)]))


def _others(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(shape)) if axis not in axes]


def _axes_of(index: np.ndarray | None, shape: Sequence[int]) -> list[int]:
    return [] if index is None else labels.varying(index)


def _layout(program: Program, number: int) -> Patches | None:
    convolution, equation = program.convolution(number), program.equations[number]
    if convolution is None or convolution.groups != 1 or program.kernels[number] != 1:
        return None
    kernel = equation.invars[1].aval.shape
    sizes = tuple(kernel[axis] for axis in convolution.kernel[2:])
    if equation.primitive.name != "conv_general_dilated":  # one with a program of its own, of stride 1
        padding = tuple(((size - 1) // 2, size // 2) for size in sizes)
        return Patches(convolution.inputs, sizes, (1,) * len(sizes), padding, (1,) * len(sizes))
    params = equation.params
    if any(step != 1 for step in params["lhs_dilation"]):
        return None
    padding = tuple((int(low), int(high)) for low, high in params["padding"])
    strides, dilation = tuple(params["window_strides"]), tuple(params["rhs_dilation"])
    return Patches(tuple(convolution.inputs), sizes, strides, padding, dilation)


def _patches(patches: Patches, value: jax.Array) -> jax.Array:
    """batch, features and positions in any order -> batch, output positions, (kernel positions, features).

    Slices, since `lax.conv_general_dilated_patches` takes five times as long on a CPU.
    """
    batch, feature, *spatial = patches.axes
    value = jnp.transpose(value, (batch, *spatial, feature))
    extents = [(size - 1) * step + 1 for size, step in zip(patches.sizes, patches.dilation, strict=True)]
    value = jax.lax.pad(value, jnp.zeros((), value.dtype), [(0, 0, 0), *[(*p, 0) for p in patches.padding], (0, 0, 0)])
    rooms = [n - e + 1 for n, e in zip(value.shape[1:-1], extents, strict=True)]

    def shifted(offsets: tuple[int, ...]) -> jax.Array:
        starts = (offset * step for offset, step in zip(offsets, patches.dilation, strict=True))
        spans = (
            slice(start, start + room, stride)
            for start, room, stride in zip(starts, rooms, patches.strides, strict=True)
        )
        return value[(slice(None), *spans)]

    return jnp.concatenate([shifted(offsets) for offsets in itertools.product(*map(range, patches.sizes))], axis=-1)
