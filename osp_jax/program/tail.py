"""The tail of a network: the kernels that write the head's input, and the program behind them.

The kernels are found in the traced program of any network: those whose output reaches the head through no other kernel,
except those whose output another of them reads. In a residual stream these are the writers of the last block, which
reads what earlier blocks wrote. Between kernel and head, channels must not mix (scales, shifts, activations, pooling,
reshaping); a norm over channels is allowed, and its statistics count as constants.

Earlier stages have such kernels, too. A tail then begins in front of theirs, and `front` are the kernels in between.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var

from osp_jax.data.augment import normalise
from osp_jax.data.kinds import channels_of, stored_dtype
from osp_jax.model import Model
from osp_jax.networks.cpu.depthwise import with_shifts
from osp_jax.program import labels
from osp_jax.program.flat import bind, flatten, signature
from osp_jax.program.gate import Head
from osp_jax.program.gates import traced
from osp_jax.program.head import find_head, no_head
from osp_jax.program.layer_inputs import Layer, input_rows, inputs_of, layers_of, multiplied, outputs_of
from osp_jax.program.scaling import ELEMENTWISE, Blocked, Program
from osp_jax.program.split_program import split_program
from osp_jax.program.stages import find_stages
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths

_AFFINE = frozenset("add add_any sub neg mul div".split())
_EXTREMES = {"reduce_max": jnp.argmax, "reduce_min": jnp.argmin}
_POOLS = frozenset("reduce_sum reduce_max reduce_min reduce_window_sum reduce_window_max reduce_window_min".split())


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """A kernel that writes channels of the head's input.

    Attributes:
      layer: the layer of the kernel.
      image_axis: axis of images in the layer's result, as `outputs_of` arranges it.
      stream: number of the equation of the last value that is affine in the layer's result, channel by channel, and
        through which alone the result reaches the head.
      places: positions of the layer's channels in that value, once its axes are in the order `stream_axes` and those
        from `stream_rank` on are merged.
      start: number of the first feature that the layer writes; the others follow in order.
      biases: paths of candidate biases in front of `stream`, in program order.
    """

    layer: Layer
    image_axis: int
    stream: int
    stream_axes: tuple[int, ...]
    stream_rank: int
    places: tuple[int, ...]
    start: int
    biases: tuple[str, ...]

    @property
    def features(self) -> slice:
        """The features that the layer writes."""
        return slice(self.start, self.start + self.layer.outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Inner:
    """A kernel between two stages that writes neither: its `layer`, and the `image_axis` of the layer's result, as
    `outputs_of` arranges it."""

    layer: Layer
    image_axis: int


class Ends(NamedTuple):
    """Values of a stage of a network for a batch.

    `features` float32 `(batch, channels)`: means over the positions that the head, or an earlier stage, reads.
    `inputs` float32 `(batch, n)`: the stage itself, as the mean of a map; for the last stage, the head's input. By
    writer: its input `reads` and its result `outputs`, in the layout of the program, and the last value that is affine
    in it, `streams` `(..., channels)`. `front_reads` and `front_outputs` are the same for the kernels in front.
    """

    features: jax.Array
    inputs: jax.Array
    reads: list[jax.Array]
    outputs: list[jax.Array]
    streams: list[jax.Array]
    front_reads: list[jax.Array]
    front_outputs: list[jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Tail:
    """The program from the last kernels, or earlier ones, to a stage: the head's input, or a value before it.

    Attributes:
      early: jitted, `(variables, (uint8 images, mean, std))` to arrays with one row per image, the same for all
        variables that differ only in the kernels of all tails, their biases and the head.
      late: `((variables, shifts), arrays of early)` to `Ends`; `shifts`, one per writer, are added to its result.
      writers: those of the stage, in program order.
      front: other kernels between the stage of the previous tail and this one, in program order.
      shifts: shapes of the writers' results.
      normalised: whether there is a norm over channels between the writers and the stage.
      head: the head of the network.
    """

    early: Callable[..., list[jax.Array]]
    late: Callable[..., Ends]
    writers: tuple[Writer, ...]
    front: tuple[Inner, ...]
    shifts: tuple[jax.ShapeDtypeStruct, ...]
    normalised: bool
    head: Head

    def no_shifts(self) -> list[jax.Array]:
        """Zero shifts."""
        return [jnp.zeros(shift.shape, shift.dtype) for shift in self.shifts]


def tail_of(model: Model, batch: int, image_shape: tuple[int, ...]) -> Tail:
    """The tail from the last kernels, with the biases behind them and the head; for batches of one size.

    Raises:
      InputError: there are no such kernels, or they write only part of the head's input.
    """
    return tails_of(model, batch, image_shape, 0)[-1]


def tails_of(model: Model, batch: int, image_shape: tuple[int, ...], depth: int) -> tuple[Tail, ...]:
    """The tails to each of `depth` stages before the head's input (`stages.find_stages`), and to the head's input.

    All start from the same arrays, `early`, in front of the kernels that write the first of these stages.

    Raises:
      InputError: as `tail_of`, for one of the stages, or there are fewer stages.
    """
    leaves, structure = jax.tree.flatten(model.variables)
    shapes = tuple(jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _tails_of(model.apply, model.is_parameter, shapes, structure, batch, tuple(image_shape), depth)


def by_image(writer: Writer | Inner, values: jax.Array, batch: int) -> jax.Array:
    """A writer's result, or the rows that it comes from in the same axes, `(..., n)`, as `(batch, positions, n)`."""
    return jnp.moveaxis(values, writer.image_axis, 0).reshape(batch, -1, values.shape[-1])


def rows_of(writer: Writer | Inner, read: jax.Array, output: Any, batch: int) -> jax.Array:
    """The rows that a writer's kernel matrix multiplies, float32 `(batch, positions, inputs)`; `output`: its result."""
    return _rows(writer, input_rows(writer.layer, inputs_of(writer.layer, read)), output, batch)


def products_of(writer: Writer | Inner, read: jax.Array, output: Any, batch: int, matrix: jax.Array) -> jax.Array:
    """`rows_of(writer, read, output, batch) @ matrix`, `(inputs, k)`, without creating patches."""
    inputs = inputs_of(writer.layer, read).astype(jnp.float32)
    return _rows(writer, multiplied(writer.layer, inputs, matrix), output, batch)


def _rows(writer: Writer | Inner, values: jax.Array, output: Any, batch: int) -> jax.Array:
    shape = jax.eval_shape(partial(outputs_of, writer.layer), output).shape[:-1]
    return by_image(writer, values.reshape(*shape, values.shape[-1]).astype(jnp.float32), batch)


@lru_cache(maxsize=16)
def _tails_of(
    apply: Callable,
    is_parameter: Callable[[str], bool],
    leaves: tuple[jax.ShapeDtypeStruct, ...],
    structure: Any,
    batch: int,
    image_shape: tuple[int, ...],
    depth: int,
) -> tuple[Tail, ...]:
    variables = jax.tree.unflatten(structure, leaves)
    paths, floats = leaf_paths(variables), partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    head, last, digest = _head_of(traced(apply, variables, image_shape, jnp.float32))
    stages = find_stages(apply, variables, image_shape).found[:-1] if depth else ()
    if len(stages) < depth:
        raise InputError(f"the network has {len(stages)} stages before its last features; choose a smaller depth")
    places = [*((stage.value, stage.axis, stage.batch_axis) for stage in stages[len(stages) - depth :]), last]
    closed, more = (flatten(apply, variables, floats((n, *image_shape))) for n in (batch, batch + 1))
    if signature(closed) != digest:
        raise InputError("the network runs other operations for one image; refit it on batches of two or more")
    program = Program(closed, paths)
    layers = layers_of(closed, paths)
    earlier = [(f"stage {-number} before the last features", "choose a smaller depth") for number in range(-depth, 0)]
    about = [*earlier, (f"the input of {head.kernel}", "choose a method that does not change the features")]
    found = [_writers(program, more, layers, *given, is_parameter) for given in zip(places, about, strict=True)]
    between = itertools.pairwise(places)
    fronts = [(), *(_front(more, program, layers, *given, found) for given in between)]
    numbers = [[writer.layer.number for writer in writers] for writers, _, _ in found]
    shifts = [[closed.jaxpr.eqns[number].outvars[0].aval for number in own] for own in numbers]
    shifts = [[jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in own] for own in shifts]
    constant = frozenset().union(*(statistics for _, _, statistics in found))

    def ends(given: Any, images: tuple[jax.Array, ...]) -> list[Ends]:
        (variables, shifts), pixels = given, normalise(*images)
        values = [*jax.tree.leaves(variables), pixels.astype(jnp.float32)]
        added = dict(zip(itertools.chain(*numbers), itertools.chain(*shifts), strict=True))
        known = _interpreted(closed, values, added, constant, last[0])
        result = lambda number: known[closed.jaxpr.eqns[number].outvars[0]]  # noqa: E731
        made = []
        for place, (writers, segments, _), front in zip(places, found, fronts, strict=True):
            total = max(writer.features.stop for writer in writers)
            inputs = _arranged(result(place[0]), place, batch)
            streams = [_stream(writer, result(writer.stream)) for writer in writers]
            reads, outputs = zip(
                *((_read(closed, w.layer, known), result(w.layer.number)) for w in writers), strict=True
            )
            of_front = [_read(closed, w.layer, known) for w in front], [result(w.layer.number) for w in front]
            features = _means(inputs, segments, total)
            made.append(Ends(features, inputs, list(reads), list(outputs), streams, *of_front))
        return made

    kernels = [kernel for (writers, _, _), front in zip(found, fronts, strict=True) for kernel in (*writers, *front)]
    changing = {kernel.layer.path for kernel in kernels} | {head.kernel, head.bias} - {None}
    changing |= {path for writers, _, _ in found for writer in writers for path in writer.biases}
    changing = {f"0/{path}" for path in changing} | {f"1/{path}" for path in leaf_paths(shifts)}
    moments = floats((channels_of(image_shape),))
    given = jax.ShapeDtypeStruct((batch, *image_shape), stored_dtype(image_shape)), moments, moments
    halves = split_program(ends, (variables, shifts), given, changing)

    def no_shifts() -> list[list[jax.Array]]:
        return jax.tree.map(lambda shift: jnp.zeros(shift.shape, shift.dtype), shifts)

    def late(number: int, given: Any, kept: list[jax.Array]) -> Ends:
        all_shifts = no_shifts()
        all_shifts[number] = list(given[1])
        return halves.late((given[0], all_shifts), kept)[number]

    early = jax.jit(lambda variables, images: halves.early((variables, no_shifts()), images))
    tails = zip(found, fronts, shifts, strict=True)
    return tuple(
        Tail(early, partial(late, number), writers, front, tuple(own), bool(statistics), head)
        for number, ((writers, _, statistics), front, own) in enumerate(tails)
    )


def _head_of(program: Program) -> tuple[Head, tuple[int, int, int], str]:
    """(the head; number of the equation of its input, feature axis, axis of images; digest of the program)."""
    number, head = find_head(program)
    operand = program.read_operand(number)
    if operand not in program.made:
        raise no_head("it reads the images themselves")
    (axis,) = labels.varying(program.summed_index(number)) or [len(operand.aval.shape) - 1]
    return head, (program.made[operand][0], axis, program.batch_axes[operand]), signature(program.closed)


# Finding the kernels


class _Way(NamedTuple):
    """The path of a kernel's result to the head: the index array of its channels in the head's input, the last value
    that is affine in it and its index array, and the positions of statistics over channels."""

    index: np.ndarray
    stream: int
    stream_index: np.ndarray
    statistics: frozenset[int]


def _writers(
    program: Program,
    more: Any,
    layers: Sequence[Layer],
    place: tuple[int, int, int],
    about: tuple[str, str],
    is_parameter: Callable[[str], bool],
) -> tuple[tuple[Writer, ...], np.ndarray, frozenset[int]]:
    """(the writers of a stage; the feature of each of its entries; the positions of statistics over channels).

    Args:
      place: the stage: its equation, its axes of channels and of images.
      about: a description of it, and the remedy if it has no such writers.
    """
    target, axis, _ = place
    by_number = {layer.number: layer for layer in layers}
    shared = [layer.path for layer in layers]
    width = program.equations[target].outvars[0].aval.shape[axis]
    segments, start = np.full(width, -1), 0
    found: list[Writer] = []
    streams: dict[int, tuple[int, np.ndarray]] = {}
    statistics: frozenset[int] = frozenset()
    reason = "no kernel's output reaches it"
    for number in sorted(_last_products(program, target), reverse=True):
        layer = by_number.get(number)
        if layer is None or shared.count(layer.path) > 1:
            reason = "the last kernel is grouped, shared or computed"
            continue
        try:
            way = _follow(program, layer, target, axis)
        except Blocked as blocked:
            reason = f"{blocked} mixes the channels of {layer.path}"
            continue
        features = np.broadcast_to(way.index.reshape(-1), width)
        own = features >= 0
        if way.stream in streams:
            begin, same = streams[way.stream]
            if not np.array_equal(same, features):
                continue
        elif (segments[own] >= 0).any():
            continue
        else:
            begin, start = start, start + layer.outputs
            streams[way.stream] = begin, features
            segments[own] = begin + features[own]
        statistics |= way.statistics
        biases = _biases(program, way.stream, target, layer.outputs, is_parameter)
        found.append(_writer(program, more, layer, way, begin, biases))
    covered = int((segments >= 0).sum())
    if covered < width:
        detail = f"kernels that nothing else reads write {covered} of {width} channels" if covered else reason
        raise InputError(f"no kernel alone writes {about[0]} ({detail}); {about[1]}")
    return tuple(reversed(found)), segments, statistics


def _writer(program: Program, more: Any, layer: Layer, way: _Way, start: int, biases: tuple[str, ...]) -> Writer:
    image_axis = _image_axis(program, more, layer)
    varying = labels.varying(way.stream_index)
    axes = (*[axis for axis in range(way.stream_index.ndim) if axis not in varying], *varying)
    index = way.stream_index.transpose(axes).reshape(-1)
    places = {channel: place for place, channel in enumerate(index.tolist()) if channel >= 0}
    places = tuple(places.get(channel, 0) for channel in range(layer.outputs))
    return Writer(layer, image_axis, way.stream, axes, len(axes) - len(varying), places, start, biases)


def _image_axis(program: Program, more: Any, layer: Layer) -> int:
    """The axis of images in a layer's result, as `outputs_of` arranges it."""
    outputs = [outputs.jaxpr.eqns[layer.number].outvars[0].aval for outputs in (program.closed, more)]
    pairs = zip(*(jax.eval_shape(partial(outputs_of, layer), aval).shape for aval in outputs), strict=True)
    return next(axis for axis, (few, many) in enumerate(pairs) if few != many)


def _front(
    more: Any, program: Program, layers: Sequence[Layer], start: Any, stop: Any, found: Sequence[Any]
) -> tuple[Inner, ...]:
    """The kernels between two stages, without the writers that were `found` and without grouped, shared or computed
    kernels."""
    shared = [layer.path for layer in layers]
    written = {writer.layer.number for writers, _, _ in found for writer in writers}
    return tuple(
        Inner(layer, _image_axis(program, more, layer))
        for layer in layers
        if start[0] < layer.number < stop[0] and layer.number not in written and shared.count(layer.path) == 1
    )


def _last_products(program: Program, target: int) -> set[int]:
    """Products with kernels whose result reaches a value directly, and reaches none of the others."""

    candidates = _products_behind(program, program.equations[target].outvars[:1], stop=True)
    read = (_products_behind(program, program.equations[number].invars, stop=False) for number in candidates)
    return candidates - set().union(*read)


def _products_behind(program: Program, atoms: Sequence[Any], stop: bool) -> set[int]:
    """Products with kernels that values depend on; with `stop`, only those that reach them directly."""
    found, seen, waiting = set(), set(), [atom for atom in atoms if isinstance(atom, Var)]
    while waiting:
        var = waiting.pop()
        if var in seen or var not in program.made:
            continue
        seen.add(var)
        number = program.made[var][0]
        if number in program.kernels:
            found.add(number)
        if not (stop and number in program.kernels):
            waiting.extend(atom for atom in program.equations[number].invars if isinstance(atom, Var))
    return found


def _follow(program: Program, layer: Layer, target: int, axis: int) -> _Way:
    """Follows the channels of a layer's result to the value `target`, whose channel axis is `axis`.

    Raises:
      Blocked: an operation on the way mixes channels.
    """
    needed = _ancestors(program, target)
    start = program.equations[layer.number].outvars[0]
    index = np.arange(layer.outputs, dtype=np.int32)
    shape = [start.aval.shape[axis] for axis in layer.written]
    count = layer.channel_axes[1]
    index = index.reshape([1] * (len(shape) - count) + shape[len(shape) - count :]).transpose(np.argsort(layer.written))
    # By value: its index array (None for a statistic over channels), and whether it is affine in the result.
    known: dict[Var, tuple[np.ndarray | None, bool]] = {start: (index, True)}
    statistics, affine_values = set(), [start]
    for number in range(layer.number + 1, target + 1):
        equation = program.equations[number]
        found = [known.get(atom) if isinstance(atom, Var) else None for atom in equation.invars]
        if number not in needed or not any(found):
            continue
        results, affine = _stepped(program, number, found)
        if results is None:
            statistics.add(number)
        affine_values.extend(equation.outvars if affine else [])
        for result, var in enumerate(equation.outvars):
            known[var] = (None if results is None else results[result], affine)
    last = program.equations[target].outvars[0]
    index, affine = known.get(last, (None, False))
    if index is None or any(other != axis for other in labels.varying(index)):
        raise Blocked("a statistic over channels" if index is None else "a reshape")
    stream = next(
        var
        for var in reversed(affine_values)
        if not program.made[var][1] and (var is last or last not in _behind(program, start, var, needed))
    )
    return _Way(index, program.made[stream][0], known[stream][0], frozenset(statistics))


def _stepped(
    program: Program, number: int, found: Sequence[tuple[np.ndarray | None, bool] | None]
) -> tuple[list[np.ndarray] | None, bool]:
    """(index arrays of an equation's results, None for a statistic over channels; whether they are affine)."""
    equation = program.equations[number]
    name, params = equation.primitive.name, equation.params
    shapes = [atom.aval.shape for atom in equation.invars]
    rank = len(equation.outvars[0].aval.shape)
    tracked = [label for label in found if label is not None]
    whole = [label[0] for label in tracked if label[0] is not None]
    affine = all(label[1] for label in tracked)
    if labels.moves(name):
        if not whole:
            return None, False
        if any(label is not None and label[0] is None for label in found):
            raise Blocked(name)
        indices: list[Any] = []
        for position, (atom, label) in enumerate(zip(equation.invars, found, strict=True)):
            if name in ("gather", "dynamic_slice") and position:
                value = program.value(atom)
                if label is not None or value is None:
                    raise Blocked(name)
                indices.append(value)
            else:
                empty = np.full((1,) * len(shapes[position]), labels.NONE, np.int32)
                indices.append(empty if label is None else label[0])
        return labels.forward(name, params, shapes, indices), affine
    if name in ELEMENTWISE:
        if not whole:
            return None, False
        index = whole[0].reshape((1,) * rank) if whole[0].ndim < rank else whole[0]
        for other in whole[1:]:
            index = labels.unified(index, other)
            if index is None:
                raise Blocked(name)
        if name in ("mul", "div"):
            affine = affine and len(tracked) == 1 and (name == "mul" or found[0] is not None)
        return [index], affine and name in _AFFINE
    if name in _POOLS:
        if not whole:
            return None, False
        axes = params.get("axes", ())
        if any(whole[0].shape[axis] > 1 for axis in axes):
            return None, False
        windows = params.get("window_dimensions", (1,) * len(shapes[0]))
        if any(windows[axis] > 1 for axis in labels.varying(whole[0])):
            raise Blocked(name)
        return [whole[0].squeeze(tuple(axes))], False
    if not whole and name not in ("dot_general", "conv_general_dilated"):
        return None, False
    raise Blocked(name)


def _biases(
    program: Program, stream: int, target: int, channels: int, is_parameter: Callable[[str], bool]
) -> tuple[str, ...]:
    """Parameters that reach a value without a kernel, and the head only through it; by their first read."""
    last, end = program.equations[stream].outvars[0], program.equations[target].outvars[0]
    found = []
    for path, leaf in program.leaves.items():
        if not is_parameter(path) or leaf.aval.size != channels or leaf not in program.uses:
            continue
        seen = _behind(program, leaf, last)
        kernels = any(program.is_product(number) for var in seen - {last} for number in program.uses.get(var, []))
        if last in seen and not kernels and (end not in seen or end is last):
            found.append((max(number for number in program.uses[leaf]), path))
    return tuple(path for _, path in sorted(found))


def _behind(program: Program, start: Var, stop: Var, among: set[int] | None = None) -> set[Var]:
    """The values that depend on `start`, including it, but not by way of `stop`; `among`: in these equations."""
    seen, waiting = {start}, [start]
    while waiting:
        var = waiting.pop()
        for number in program.uses.get(var, []) if var is not stop else []:
            if among is None or number in among:
                fresh = [out for out in program.equations[number].outvars if out not in seen]
                seen |= set(fresh)
                waiting.extend(fresh)
    return seen


def _ancestors(program: Program, target: int) -> set[int]:
    found, waiting = {target}, [target]
    while waiting:
        for atom in program.equations[waiting.pop()].invars:
            if isinstance(atom, Var) and atom in program.made and program.made[atom][0] not in found:
                found.add(program.made[atom][0])
                waiting.append(program.made[atom][0])
    return found


# Running the rest of the program


def _interpreted(
    closed: Any, values: Sequence[Any], added: Mapping[int, jax.Array], constant: frozenset[int], last: int
) -> dict[Var, Any]:
    """All values of a flat program up to equation `last`; adds arrays to some results, makes others constant."""
    known = dict(zip(closed.jaxpr.invars, values, strict=True))
    known |= zip(closed.jaxpr.constvars, closed.consts, strict=True)
    for number, equation in enumerate(with_shifts(closed).jaxpr.eqns[: last + 1]):
        operands = [atom.val if isinstance(atom, Literal) else known[atom] for atom in equation.invars]
        if equation.primitive.name in _EXTREMES:
            results = [_extreme(operands[0], equation.params["axes"], _EXTREMES[equation.primitive.name])]
        else:
            results = list(bind(equation, operands, equation.params))
        if number in added:
            results[0] = results[0] + added[number]
        if number in constant:
            results = [jax.lax.stop_gradient(result) for result in results]
        known |= zip(equation.outvars, results, strict=True)
    return known


def _extreme(operand: jax.Array, axes: Sequence[int], position: Callable[..., jax.Array]) -> jax.Array:
    """A maximum or minimum over axes, with the derivative of one entry.

    JAX's own derivative divides by the number of entries that equal the result, which can be 0 if XLA computes them
    twice with different rounding.
    """
    rest = [axis for axis in range(operand.ndim) if axis not in axes]
    rows = operand.transpose((*rest, *axes)).reshape(*(operand.shape[axis] for axis in rest), -1)
    return jnp.take_along_axis(rows, position(jax.lax.stop_gradient(rows), axis=-1, keepdims=True), -1)[..., 0]


def _read(closed: Any, layer: Layer, known: Mapping[Var, Any]) -> jax.Array:
    return known[closed.jaxpr.eqns[layer.number].invars[1 - layer.side]]


def _stream(writer: Writer, value: jax.Array) -> jax.Array:
    value = value.transpose(writer.stream_axes)
    value = value.reshape(*value.shape[: writer.stream_rank], -1)
    return value[..., np.asarray(writer.places)]


def _arranged(value: jax.Array, read: tuple[int, int, int], batch: int) -> jax.Array:
    """The head's input as float32 `(batch, features)`; the mean of a map."""
    _, axis, image_axis = read
    value = jnp.moveaxis(value, axis, -1)
    value = jnp.moveaxis(value, image_axis - (image_axis > axis), 0)
    value = value.reshape(batch, -1, value.shape[-1]).astype(jnp.float32)
    return value.mean(1)


def _means(inputs: jax.Array, segments: np.ndarray, total: int) -> jax.Array:
    """Means over the entries of each of `total` features, `(batch, total)`."""
    if np.array_equal(segments, np.arange(total)):
        return inputs
    sums = jax.ops.segment_sum(inputs.T, jnp.asarray(segments), num_segments=total).T
    return sums / np.maximum(np.bincount(segments, minlength=total), 1)
