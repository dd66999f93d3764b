"""The inputs of each layer of a network, as rows of the matrix that its kernel multiplies.

A layer is a product (`dot_general`) or a convolution in the traced program with one operand that is a leaf of the
variables, moved or cast but not computed with. A product multiplies vectors; a convolution multiplies the patches of
its input map. In both cases `outputs = rows @ kernel_matrix`, up to the bias, which is what methods that project
kernels need. `write_matrix` writes a matrix to the leaf, in any layout.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from osp_jax.networks.cpu.convolution import conv_general_dilated
from osp_jax.program.flat import evaluate, flatten, is_own_convolution, signature
from osp_jax.runtime.distributed import on_cpu
from osp_jax.trees import leaf_paths

# Operations that move the entries of a kernel, or drop some. Casts are skipped when the matrix is read, so that a
# matrix of the leaf's own precision is written back.
_MOVES = frozenset(
    "transpose reshape squeeze expand_dims rev slice split copy copy_p name optimization_barrier".split()
)
_SAME = frozenset("copy copy_p name optimization_barrier".split())
_CASTS = frozenset(["convert_element_type", "reduce_precision"])


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A product or a convolution with a leaf of the variables.

    Attributes:
      path: path of the leaf.
      number: number of the equation in the flat program.
      inputs, outputs: sizes of the kernel matrix.
      window: sizes of a convolution's kernel along its spatial axes; () for a product.
      read, written: the axis orders that put positions first and channels last, of the value that the kernel
        multiplies and of the result. In a convolution and behind it the first axis is that of images.
      channel_axes: number of channel axes of the value, and of the result.
      steps: the operations from the leaf to the kernel, as (equation, number of the result).
      kernel: the axis order that puts the kernel's inputs first.
      strides, padding, dilation: those of a convolution.
    """

    path: str
    number: int
    inputs: int
    outputs: int
    window: tuple[int, ...]
    read: tuple[int, ...]
    written: tuple[int, ...]
    channel_axes: tuple[int, int]
    steps: tuple[tuple[JaxprEqn, int], ...]
    kernel: tuple[int, ...]
    side: int
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()


def find_layers(apply: Callable[[Any, jax.Array], Any], variables: Any, images: Any) -> tuple[Layer, ...]:
    """The layers of `apply(variables, images)` in program order; a layer appears once per call.

    Left out are kernels that do not multiply the rows of one matrix: those of grouped convolutions, of convolutions
    with a dilated input, of products with a batch axis in the kernel, and computed kernels.

    Args:
      variables: a pytree of arrays or shapes.
      images: normalised, `(batch, h, w, c)`, or their shape; layer numbers are the same for all batches of two or more
        images.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda *given: given, variables, images))
    return _find_layers(apply, tuple(leaves), structure)


def layer_inputs(
    apply: Callable[[Any, jax.Array], Any], variables: Any, images: jax.Array, layers: Sequence[Layer]
) -> list[jax.Array]:
    """The inputs of each of `layers` in one pass; jittable.

    Returns:
      by layer `(batch, ..., channels)`; for a convolution with its spatial axes, for a product with its own axes.
    """
    program = flatten(apply, variables, images)
    values = _operands(program, variables, images, layers)
    return [inputs_of(layer, value) for layer, value in zip(layers, values, strict=True)]


def layer_outputs(
    apply: Callable[[Any, jax.Array], Any], variables: Any, images: jax.Array, layers: Sequence[Layer]
) -> list[jax.Array]:
    """The outputs of each of `layers` in one pass, before its bias, `(batch, ..., channels)`; jittable."""
    program = flatten(apply, variables, images)
    numbers = {layer.number for layer in layers}
    kept = evaluate(program, jax.tree.leaves((variables, images)), keep=numbers)[1]
    return [outputs_of(layer, kept[layer.number]) for layer in layers]


def inputs_of(layer: Layer, value: jax.Array) -> jax.Array:
    """The value that the layer reads in the program, as `(batch, ..., channels)`."""
    return _merged(value.transpose(layer.read), layer.channel_axes[0])


def outputs_of(layer: Layer, value: jax.Array) -> jax.Array:
    """The layer's result in the program, as `(batch, ..., channels)`."""
    return _merged(value.transpose(layer.written), layer.channel_axes[1])


def input_rows(layer: Layer, inputs: jax.Array) -> jax.Array:
    """The rows that the kernel matrix multiplies, `(positions, inputs)`, image after image.

    Args:
      inputs: as `layer_inputs` returns them; a convolution's may be cropped to part of its map.
    """
    if layer.window:
        inputs = _patches(layer, inputs)
    return inputs.reshape(-1, layer.inputs)


def multiplied(layer: Layer, inputs: jax.Array, matrix: jax.Array) -> jax.Array:
    """`input_rows(layer, inputs) @ matrix` in full float32, `(batch, ..., k)`, as a convolution for a convolution.

    Args:
      inputs: `(batch, ..., channels)`, as `layer_inputs` returns them.
      matrix: `(inputs, k)`.
    """
    precision = None if on_cpu() else lax.Precision.HIGHEST
    if not layer.window:
        return jnp.matmul(inputs, matrix, precision=precision)
    kernel = matrix.reshape(*layer.window, -1, matrix.shape[-1])
    space = "DHW"[-len(layer.window) :]
    options = {"rhs_dilation": layer.dilation, "dimension_numbers": (f"N{space}C", f"{space}IO", f"N{space}C")}
    convolve = conv_general_dilated if len(layer.window) == 2 else lax.conv_general_dilated
    return convolve(inputs, kernel, layer.strides, _padding(layer, inputs), precision=precision, **options)


def kernel_matrix(layer: Layer, leaf: jax.Array) -> jax.Array:
    """The kernel `(inputs, outputs)` in a leaf of the variables."""
    return _moved(layer, leaf).transpose(layer.kernel).reshape(layer.inputs, layer.outputs)


def write_matrix(layer: Layer, leaf: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns the leaf with `matrix` `(inputs, outputs)` as its kernel; entries that the layer does not read stay."""
    taken, put = jax.vjp(lambda leaf: kernel_matrix(layer, leaf), leaf)
    if taken.size == leaf.size:
        return put(matrix.astype(leaf.dtype))[0]
    return jnp.where(put(jnp.ones_like(taken))[0] > 0, put(matrix.astype(leaf.dtype))[0], leaf)


@lru_cache(maxsize=32)
def _find_layers(apply: Callable, leaves: tuple[jax.ShapeDtypeStruct, ...], structure: Any) -> tuple[Layer, ...]:
    variables, images = jax.tree.unflatten(structure, leaves)
    more = jax.ShapeDtypeStruct((images.shape[0] + 1, *images.shape[1:]), images.dtype)
    programs = [flatten(apply, variables, batch) for batch in (images, more)]
    same = signature(programs[0]) == signature(programs[1])
    return layers_of(programs[0], leaf_paths(variables), programs[1] if same else None)


def layers_of(program: ClosedJaxpr, paths: Sequence[str], more: ClosedJaxpr | None = None) -> tuple[Layer, ...]:
    """The layers of a flat program whose first arguments are the leaves at `paths`.

    `more` is the same program for another number of images; it identifies the axis of images, which becomes the first
    of the axes of positions.
    """
    jaxpr = program.jaxpr
    leaves = dict(zip(jaxpr.invars, paths, strict=False))
    made = {var: (number, result) for number, eqn in enumerate(jaxpr.eqns) for result, var in enumerate(eqn.outvars)}
    fed = set(jaxpr.invars[len(paths) :])
    found = []
    for number, equation in enumerate(jaxpr.eqns):
        fed |= set(equation.outvars) if fed & {v for v in equation.invars if isinstance(v, Var)} else set()
        form = _dot if equation.primitive.name == "dot_general" else _convolution
        if equation.primitive.name not in ("dot_general", "conv_general_dilated") and not is_own_convolution(equation):
            continue
        for side in (1, 0):
            origin = _origin(equation.invars[side], leaves, made, jaxpr.eqns)
            other = equation.invars[1 - side]
            if origin and isinstance(other, Var) and other in fed:
                layer = form(equation, side, origin[0], number, origin[1])
                if layer and more and not layer.window:
                    layer = _images_first(layer, other.aval.shape, more.jaxpr.eqns[number].invars[1 - side].aval.shape)
                found.extend([layer] if layer else [])
                break
    return tuple(found)


def _operands(program: ClosedJaxpr, variables: Any, images: Any, layers: Sequence[Layer]) -> list[jax.Array]:
    """The values that the layers read; one that is no first result of an equation is an argument or other result."""
    jaxpr = program.jaxpr
    wanted = [jaxpr.eqns[layer.number].invars[1 - layer.side] for layer in layers]
    outputs = ClosedJaxpr(jaxpr.replace(outvars=wanted, debug_info=None), program.consts)
    return evaluate(outputs, jax.tree.leaves((variables, images)))[0]


def _origin(
    atom: Any, leaves: Mapping[Var, str], made: Mapping[Var, tuple[int, int]], equations: Sequence[JaxprEqn]
) -> tuple[str, tuple[tuple[JaxprEqn, int], ...]] | None:
    """The leaf that a value is moved from, and the operations in between."""
    steps: list[tuple[JaxprEqn, int]] = []
    while not isinstance(atom, Literal) and atom not in leaves:
        if atom not in made:
            return None
        number, result = made[atom]
        equation = equations[number]
        name = equation.primitive.name
        alone = name == "broadcast_in_dim" and equation.outvars[0].aval.size == equation.invars[0].aval.size
        if name in _CASTS:
            pass
        elif name in _MOVES or alone:
            steps.append((equation, result))
        else:
            return None
        atom = equation.invars[result if name == "optimization_barrier" else 0]
    return None if isinstance(atom, Literal) else (leaves[atom], tuple(reversed(steps)))


def _moved(layer: Layer, leaf: jax.Array) -> jax.Array:
    for equation, result in layer.steps:
        if equation.primitive.name in _SAME:
            continue
        params = dict(equation.params)
        leaf = equation.primitive.bind(leaf, **params)
        leaf = leaf[result] if equation.primitive.multiple_results else leaf
    return leaf


def _dot(equation: JaxprEqn, side: int, path: str, number: int, steps: Any) -> Layer | None:
    contract, batch = equation.params["dimension_numbers"]
    if batch[0]:
        return None
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    free = [[axis for axis in range(ranks[s]) if axis not in contract[s]] for s in (0, 1)]
    shape = equation.invars[side].aval.shape
    # In the result: the free axes of the first operand, then those of the second.
    starts = (0, len(free[0]))
    axes = [[starts[s] + i for i in range(len(free[s]))] for s in (1 - side, side)]
    return Layer(
        path=path,
        number=number,
        inputs=math.prod(shape[axis] for axis in contract[side]),
        outputs=math.prod(shape[axis] for axis in free[side]),
        window=(),
        read=(*free[1 - side], *contract[1 - side]),
        written=(*axes[0], *axes[1]),
        channel_axes=(len(contract[side]), len(free[side])),
        steps=steps,
        kernel=(*contract[side], *free[side]),
        side=side,
    )


def _images_first(layer: Layer, shape: Sequence[int], other: Sequence[int]) -> Layer:
    """A product with the axis of images, whose size depends on their number, in front of the other positions."""
    image = next((axis for axis, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b), None)
    count = len(layer.read) - layer.channel_axes[0]
    if image not in layer.read[:count]:
        return layer
    order = sorted(range(count), key=lambda place: layer.read[place] != image)
    read, written = ((*(axes[i] for i in order), *axes[count:]) for axes in (layer.read, layer.written))
    return dataclasses.replace(layer, read=read, written=written)


def _convolution(equation: JaxprEqn, side: int, path: str, number: int, steps: Any) -> Layer | None:
    shape, params = equation.invars[1].aval.shape, equation.params
    if side == 0:
        return None
    if is_own_convolution(equation):
        read = written = (0, 1, 2, 3)
        kernel, strides, dilation = (0, 1, 2, 3), (1, 1), (1, 1)
        padding = tuple(lax.padtype_to_pads(equation.invars[0].aval.shape[1:3], shape[:2], strides, "SAME"))
    else:
        grouped = params["feature_group_count"] != 1 or params["batch_group_count"] != 1
        if grouped or set(params["lhs_dilation"]) - {1}:
            return None
        axes = params["dimension_numbers"]
        read = (axes.lhs_spec[0], *axes.lhs_spec[2:], axes.lhs_spec[1])
        written = (axes.out_spec[0], *axes.out_spec[2:], axes.out_spec[1])
        kernel = (*axes.rhs_spec[2:], axes.rhs_spec[1], axes.rhs_spec[0])
        strides, dilation = params["window_strides"], params["rhs_dilation"]
        padding = tuple(map(tuple, params["padding"]))
    sizes = [shape[axis] for axis in kernel]
    return Layer(
        path=path,
        number=number,
        inputs=math.prod(sizes[:-1]),
        outputs=sizes[-1],
        window=tuple(sizes[:-2]),
        read=read,
        written=written,
        channel_axes=(1, 1),
        steps=steps,
        kernel=kernel,
        side=side,
        strides=tuple(strides),
        padding=_padding_name(padding, equation.invars[0].aval.shape, read, sizes[:-2], strides, dilation),
        dilation=tuple(dilation),
    )


def _padding_name(padding: Any, shape: Any, read: Any, sizes: Any, strides: Any, dilation: Any) -> Any:
    """'SAME' if the padding equals it, so that it also fits part of the map; otherwise the padding itself."""
    spatial = [shape[axis] for axis in read[1:-1]]
    extents = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    same = tuple(map(tuple, lax.padtype_to_pads(spatial, extents, strides, "SAME")))
    return "SAME" if same == padding else padding


def _merged(value: jax.Array, count: int) -> jax.Array:
    """Merges the last `count` axes."""
    return value if count == 1 else value.reshape(*value.shape[: value.ndim - count], -1)


def _patches(layer: Layer, inputs: jax.Array) -> jax.Array:
    """b h w c -> b oh ow (kh kw c). Uses slices, because `lax.conv_general_dilated_patches` is five times as slow on a
    CPU."""
    sizes, dilation, extents = layer.window, layer.dilation, _extents(layer)
    zero = jnp.zeros((), inputs.dtype)
    inputs = lax.pad(inputs, zero, ((0, 0, 0), *((low, high, 0) for low, high in _padding(layer, inputs)), (0, 0, 0)))
    rooms = [n - e + 1 for n, e in zip(inputs.shape[1:-1], extents, strict=True)]

    def shifted(offsets: tuple[int, ...]) -> jax.Array:
        starts = (o * d for o, d in zip(offsets, dilation, strict=True))
        spans = (slice(start, start + room, s) for start, room, s in zip(starts, rooms, layer.strides, strict=True))
        return inputs[(slice(None), *spans)]

    return jnp.concatenate([shifted(offsets) for offsets in itertools.product(*map(range, sizes))], axis=-1)


def _padding(layer: Layer, inputs: jax.Array) -> Sequence[tuple[int, int]]:
    if isinstance(layer.padding, str):
        return lax.padtype_to_pads(inputs.shape[1:-1], _extents(layer), layer.strides, layer.padding)
    return layer.padding


def _extents(layer: Layer) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(layer.window, layer.dilation, strict=True)]
