"""Which leaves of the variables gate a channel, read off the network's own program.

A gain between 0 and 1 on a channel of a value may stand at the leaves that write the value, if everything between is
positively homogeneous, or at the kernels that read it, in their input axis. Which leaves those are follows from the
traced program (`scaling`), for any architecture; every gate is then proved on a few images, masked variables against
scaled values.

What is gated is what each convolution and product with a kernel reads, at its origin: behind the activation, before
pooling and reshaping. The value of a residual stream that later blocks go on to read is no gate: its writers feed those
blocks too. The value that the head reads always is one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from osp_jax.program import labels
from osp_jax.program.flat import evaluate, flatten, signature
from osp_jax.program.labels import Index
from osp_jax.program.scaling import ELEMENTWISE, Blocked, Label, Program, closed, reach
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths

TOLERANCE = 1e-5  # of the largest logit
_MOST_IMAGES = 4  # that the proof looks at

_WINDOWS = frozenset("reduce_window_sum reduce_window_max".split())
_POOLS = frozenset("reduce_sum reduce_max".split()) | _WINDOWS
_KEPT = frozenset("reshape transpose squeeze expand_dims broadcast_in_dim pad rev".split()) | labels.IN_PLACE


@dataclasses.dataclass(frozen=True)
class Factor:
    """Which gain scales which entries of a leaf.

    Attributes:
      path: of the leaf in the variables.
      shape: broadcasts against the leaf, same rank.
      index: flat, one number for each entry of `shape`: the channel whose gain scales it; -1: none.
    """

    path: str
    shape: tuple[int, ...]
    index: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Gate:
    """Channels of a value, and where their gains may stand.

    Attributes:
      name: path of the module that writes the channels last, or of the first that reads them and '/input'.
      channels: how many.
      value: number of the equation in the flat program whose first output is gated.
      axis: its channel axis.
      writers: leaves whose scaling equals scaling the value; () where that is not exact.
      readers: leaves that absorb the gains where the value is read; () where not every read can.
      kernels: leaves that make the channel and nothing else, so that they may be zeroed with it.
      batch_axis: the axis of the value that images are on.
    """

    name: str
    channels: int
    value: int
    axis: int
    writers: tuple[Factor, ...]
    readers: tuple[Factor, ...]
    kernels: tuple[Factor, ...]
    batch_axis: int = 0

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Where a mask stands: at the writers if possible."""
        return self.writers or self.readers


@dataclasses.dataclass(frozen=True)
class Head:
    """The leaves that give the logits, features @ kernel + bias, and the axes of the kernel."""

    kernel: str
    input_axis: int
    output_axis: int
    bias: str | None


@dataclasses.dataclass(frozen=True)
class Gates:
    """What can be gated in a network; hashable.

    Attributes:
      groups: from input to output, each proved.
      filters: one for each kernel, where possible: its output behind the affine operations that follow it, gated at
        its own writers.
      head: the leaves of the linear head.
      features: name of the group that the head reads, which always has readers.
      read: of the head's input: number of its equation, its feature axis, its batch axis.
      program: digest of the flat program that the numbers refer to.
    """

    groups: tuple[Gate, ...]
    filters: tuple[Gate, ...]
    head: Head
    features: str
    read: tuple[int, int, int]
    program: str

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Once: every call of a program in which these are static asks for it."""
        return hash((self.groups, self.filters, self.head, self.features, self.read, self.program))

    @property
    def last(self) -> Gate:
        """The group that the head reads."""
        return next(group for group in self.groups if group.name == self.features)


def find_gates(apply: Callable[[Any, jax.Array], jax.Array], variables: Any, images: jax.Array) -> Gates:
    """The gates of a network.

    Args:
      apply: `(variables, images) -> logits (batch, classes)`, pure, in eval mode.
      variables: any pytree of arrays.
      images: normalised, float, `(batch, h, w, c)`; a few, for the proof.

    Raises:
      InputError: the network has no linear head, or its variables are not finite.
    """
    program, batch_axes = _traced(apply, variables, images)
    head, operand, bias_path = _find_head(program)
    found = _Finder(program, batch_axes)
    groups, features = _groups(found, head, operand)
    filters = [gate for number in program.kernels if number != head if (gate := found.filter(number))]
    proof = _Proof(apply, program, variables, images, [*groups, *filters])
    groups, filters = _proved(proof, groups, filters, features)
    names = _names(groups, [])
    groups = [dataclasses.replace(gate, name=name) for gate, name in zip(groups, names, strict=True)]
    filters = [dataclasses.replace(g, name=n) for g, n in zip(filters, _names(filters, []), strict=True)]
    feature = next(gate for gate in groups if (gate.value, gate.axis) == features)
    kernel = _head(program, head, bias_path)
    read = _read(program, head, batch_axes)
    return Gates(tuple(groups), tuple(filters), kernel, feature.name, read, signature(program.closed))


def capture(
    apply: Callable[[Any, jax.Array], jax.Array], gates: Gates, variables: Any, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One eval-mode forward pass with what it computed on the way; jittable.

    Returns:
      logits `(batch, classes)`; the value of each group by name, `(batch, ..., channels)`; the input of the head,
      `(batch, ..., features)`.

    Raises:
      InputError: the program is another one than `gates` was read off.
    """
    program = flatten(apply, variables, images)
    if signature(program) != gates.program:
        raise InputError(
            "the network does other operations on these images than on those its gates were found with; "
            "find its gates with images of this shape"
        )
    number, axis, batch_axis = gates.read
    keep = {group.value for group in gates.groups} | {number}
    outputs, kept = evaluate(program, [*jax.tree.leaves(variables), images], keep=keep)
    values = {group.name: _arranged(kept[group.value], group.axis, group.batch_axis, images) for group in gates.groups}
    return outputs[0], values, _arranged(kept[number], axis, batch_axis, images)


def _arranged(value: jax.Array, axis: int, batch_axis: int, images: jax.Array) -> jax.Array:
    """To (batch, ..., channels); an axis on which positions follow images is split."""
    value = jnp.moveaxis(value, axis, -1)
    value = jnp.moveaxis(value, batch_axis - (batch_axis > axis), 0)
    batch = images.shape[0]
    return value if value.shape[0] == batch else value.reshape(batch, -1, *value.shape[1:])


def _traced(apply: Any, variables: Any, images: Any) -> tuple[Program, list[int]]:
    """The program for a small batch of abstract images, and by equation the axis of the images in its first output."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.asarray(leaf).dtype), variables)
    small, large = (
        flatten(apply, shapes, jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)) for batch in (2, 3)
    )
    if signature(small) != signature(large):
        raise InputError(
            "the network does other operations for another number of images; make `apply` independent of it"
        )
    axes = []
    for first, second in zip(small.jaxpr.eqns, large.jaxpr.eqns, strict=True):
        pairs = zip(first.outvars[0].aval.shape, second.outvars[0].aval.shape, strict=True)
        axes.append(next((axis for axis, (a, b) in enumerate(pairs) if a != b), -1))
    outputs = small.jaxpr.outvars
    if len(outputs) != 1 or len(outputs[0].aval.shape) != 2 or outputs[0].aval.shape[0] != 2:
        given = ", ".join(str(atom.aval.shape) for atom in outputs)
        raise InputError(f"the network gives {given} for 2 images; `apply` must return logits (batch, classes) alone")
    return Program(small, leaf_paths(variables)), axes


# The head


def _no_head(reason: str) -> InputError:
    return InputError(
        f"the network has no linear head ({reason}); `apply` must return the logits of a dense layer or 1x1 convolution"
    )


def _find_head(program: Program) -> tuple[int, Index, str | None]:
    """(number of the head's product, index array of the classes on its output, path of the bias)."""
    (atom,), bias = program.outputs, None
    index = labels.along(2, 1, atom.aval.shape[1])
    while True:
        if not isinstance(atom, Var) or atom not in program.made:
            raise _no_head("the logits are none of its products")
        number, result = program.made[atom]
        equation = program.equations[number]
        name = equation.primitive.name
        if number in program.kernels:
            return number, index, bias
        if name in ("add", "add_any"):
            derived = [operand for operand in equation.invars if program.is_derived(operand)]
            others = [operand for operand in equation.invars if program.is_seen(operand)]
            if len(derived) != 1 or len(others) != 1 or bias:
                raise _no_head("the logits are a sum")
            leaves = program.leaves_behind({derived[0]: index}) or {}
            if len(leaves) != 1:
                raise _no_head("its bias is not a leaf")
            ((bias, _),) = leaves.items()
            atom = others[0]
            continue
        averages = name == "reduce_sum" or (name in ("div", "mul") and _is_mean(program, number))
        if not averages and name not in _KEPT:
            raise _no_head(f"{name} follows the last kernel")
        found = program.operands_behind(number, result, index)
        found = [pair for pair in found or [] if program.is_seen(pair[0])]
        if len(found) != 1:
            raise _no_head(f"{name} follows the last kernel")
        ((atom, index),) = found


def _is_mean(program: Program, number: int) -> bool:
    """Whether a division follows a sum over as many entries as it divides by."""
    equation = program.equations[number]
    source = next((atom for atom in equation.invars if program.is_seen(atom)), None)
    divisor = next((program.value(atom) for atom in equation.invars if program.is_constant(atom)), None)
    if source not in program.made or divisor is None or divisor.size == 0:
        return False
    sums = program.equations[program.made[source][0]]
    if sums.primitive.name != "reduce_sum":
        return False
    count = math.prod(sums.invars[0].aval.shape[axis] for axis in sums.params["axes"])
    wanted = count if equation.primitive.name == "div" else 1 / count
    return bool(np.allclose(divisor, wanted, rtol=1e-3))


def _head(program: Program, number: int, bias: str | None) -> Head:
    equation, side = program.equations[number], program.kernels[number]
    classes = program.outputs[0].aval.shape[1]
    _, index, _ = _find_head(program)
    outputs = next((i for atom, i in program._factors_behind(number, index) if atom is equation.invars[side]), None)
    inputs = program.kernel_index(number, _contracted(program, number))
    found = [] if outputs is None else [program.leaves_behind({equation.invars[side]: i}) for i in (inputs, outputs)]
    if not found or any(leaves is None or len(leaves) != 1 for leaves in found):
        raise _no_head("its kernel is not one leaf")
    (path, rows), (_, columns) = (next(iter(leaves.items())) for leaves in found)
    axes = [labels.varying(rows), labels.varying(columns)]
    shape = program.leaves[path].aval.shape
    if any(len(found) > 1 for found in axes) or not np.array_equal(columns.ravel(), np.arange(columns.size)):
        raise _no_head("its kernel has more axes than inputs and outputs")
    output = axes[1][0] if axes[1] else next((a for a, n in enumerate(shape) if n == classes and a not in axes[0]), 0)
    into = axes[0][0] if axes[0] else next(a for a in range(len(shape)) if a != output)
    if math.prod(shape) != shape[into] * shape[output]:
        raise _no_head("its kernel covers several positions")
    return Head(path, into, output, bias)


def _contracted(program: Program, number: int) -> Index:
    """An index array for what a kernel multiplies that numbers the entries of the axes it sums over."""
    atom = program.equations[number].invars[1 - program.kernels[number]]
    shape, dot, convolution = atom.aval.shape, program.dot(number), program.convolution(number)
    if convolution:
        return labels.along(len(shape), convolution.inputs[1], shape[convolution.inputs[1]])
    if dot is None:
        raise Blocked("no product")
    axes = dot.contract[1 - program.kernels[number]]
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    return np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)


def _read(program: Program, number: int, batch_axes: Sequence[int]) -> tuple[int, int, int]:
    atom = program.equations[number].invars[1 - program.kernels[number]]
    (axis,) = labels.varying(_contracted(program, number)) or [len(atom.aval.shape) - 1]
    if atom not in program.made:
        raise _no_head("it reads the images themselves; reshape them in `apply`")
    made = program.made[atom][0]
    return made, axis, batch_axes[made]


# What is gated


class _Finder:
    """Proposes gates in a program."""

    def __init__(self, program: Program, batch_axes: Sequence[int]):
        self.program, self.batch_axes = program, batch_axes

    def origins(self, number: int) -> list[tuple[int, Index]]:
        """What the product `number` reads, from its operand back to where the value is made: numbers of equations, and
        index arrays that number the entries that it sums over."""
        program = self.program
        try:
            index = _contracted(program, number)
        except Blocked:
            return []
        atom, found = program.equations[number].invars[1 - program.kernels[number]], []
        while atom in program.made:
            made, result = program.made[atom]
            if result == 0:
                found.append((made, index))
            equation = program.equations[made]
            name = equation.primitive.name
            scaled_by_constant = name in ("mul", "div") and any(program.is_constant(a) for a in equation.invars)
            if name not in _KEPT and name not in _POOLS and not scaled_by_constant:
                break
            if name in _WINDOWS and (axis := self.channel_axis(made, index)) is not None:
                index = labels.along(index.ndim, axis, equation.outvars[0].aval.shape[axis])
            before = [pair for pair in program.operands_behind(made, result, index) or [] if program.is_seen(pair[0])]
            if len(before) != 1:
                break
            atom, index = before[0]
        return found

    def channel_axis(self, value: int, index: Index) -> int | None:
        """The axis of a value that is its channel axis, where a kernel sums over what `index` numbers."""
        axes = labels.varying(index)
        if len(axes) <= 1:
            return axes[0] if axes else None
        kinds = {axis: self._source(value, axis) for axis in axes}
        for kind in ("head", "kernel"):
            for axis in axes:
                if kinds[axis] == kind:
                    return axis
        return axes[-1]

    def _source(self, value: int, axis: int) -> str:
        """Where the entries along an axis come from: 'kernel', the output axis of one; 'head', a batch axis of a
        product of two activations; '' neither."""
        program = self.program
        var = program.equations[value].outvars[0]
        if axis == self.batch_axes[value]:
            return ""
        kinds: list[str] = []

        def before(item: tuple[Var, tuple[int, ...], bytes]) -> list[tuple[Var, tuple[int, ...], bytes]]:
            var, shape, data = item
            if var not in program.made:
                return []
            index = np.frombuffer(data, np.int32).reshape(shape)
            number, result = program.made[var]
            equation = program.equations[number]
            name = equation.primitive.name
            if program.is_product(number):
                kinds.append(self._kind(number, index))
                return []
            if name in ELEMENTWISE:
                found = [(atom, index) for atom in equation.invars if atom.aval.shape == equation.outvars[0].aval.shape]
            else:
                found = program.operands_behind(number, result, index) or []
            return [
                (atom, i.shape, np.ascontiguousarray(i).tobytes())
                for atom, i in found
                if program.is_seen(atom) and labels.varying(i)
            ]

        start = labels.along(len(var.aval.shape), axis, var.aval.shape[axis])
        reach(before, (var, start.shape, start.tobytes()))
        return next((kind for kind in ("head", "kernel") if kind in kinds), "")

    def _kind(self, number: int, index: Index) -> str:
        program = self.program
        if number in program.kernels:
            kernel = program.equations[number].invars[program.kernels[number]]
            return "kernel" if any(atom is kernel for atom, _ in program._factors_behind(number, index)) else ""
        dot = program.dot(number)
        batch = range(len(dot.batch[0])) if dot else ()
        return "head" if set(labels.varying(index)) <= set(batch) else ""

    def gate(self, value: int, axis: int, *, readers: bool = True) -> Gate | None:
        """The gate of a value, or None where neither its writers nor its readers can carry the gains."""
        var = self.program.equations[value].outvars[0]
        channels = var.aval.shape[axis]
        index = labels.along(len(var.aval.shape), axis, channels)
        writers = self.writers(value, index)
        kernels = self.kernels(value, index, writers) if writers else {}
        found = self.readers(value, index) if readers else {}
        if not writers and not found:
            return None
        return Gate(
            name=self.name(writers, found),
            channels=channels,
            value=value,
            axis=axis,
            writers=self.factors(writers),
            readers=self.factors(found),
            kernels=self.factors(kernels),
            batch_axis=self.batch_axes[value],
        )

    def writers(self, value: int, index: Index) -> dict[str, Index]:
        program = self.program
        leaves = program.leaves_behind({program.equations[value].outvars[0]: index})
        leaves = {path: closed(i) for path, i in (leaves or {}).items() if not labels.is_nothing(i)}
        starts = {program.leaves[path]: Label(i) for path, i in leaves.items()}
        return leaves if leaves and self._passes(starts, target=(value, index)) else {}

    def readers(self, value: int, index: Index) -> dict[str, Index]:
        program = self.program
        try:
            reads = program.push({program.equations[value].outvars[0]: Label(index)}, absorb=True)
        except Blocked:
            return {}
        demands: dict[Var, Index] = {}
        for number, wanted in reads.items():
            kernel = program.equations[number].invars[program.kernels[number]]
            agreed = labels.met(demands.get(kernel, wanted), wanted)
            if agreed is None:
                return {}
            demands[kernel] = agreed
        leaves = program.leaves_behind(demands)
        leaves = {path: closed(i) for path, i in (leaves or {}).items() if not labels.is_nothing(i)}
        starts = {program.leaves[path]: Label(i) for path, i in leaves.items()}
        return leaves if leaves and self._passes(starts, reads=reads) else {}

    def _passes(self, starts: Mapping[Var, Label], **options: Any) -> bool:
        try:
            self.program.push(starts, **options)
        except Blocked:
            return False
        return True

    def kernels(self, value: int, index: Index, writers: Mapping[str, Index]) -> dict[str, Index]:
        """Kernels that may be zeroed with channels: writers, and those behind which a writer scales the channel."""
        program = self.program
        starts = {program.leaves[path]: Label(i) for path, i in writers.items()}
        own = {program.kernel_leaf(number) for number in program.kernels}
        found = {path: i for path, i in writers.items() if path in own}
        for number, equation in enumerate(program.equations):
            if equation.primitive.name != "mul":
                continue
            derived = [atom for atom in equation.invars if program.is_derived(atom)]
            seen = [atom for atom in equation.invars if program.is_seen(atom)]
            if len(derived) != 1 or len(seen) != 1 or number > value:
                continue
            scaled = self._scaled_by(derived[0], writers)
            if seen[0].aval.shape != equation.outvars[0].aval.shape:
                continue
            for path, i in (self._kernel_behind(seen[0], scaled) if scaled is not None else {}).items():
                i = closed(i)
                if path not in found and self._passes(
                    {**starts, program.leaves[path]: Label(i, scaled=False)}, target=(value, index)
                ):
                    found[path] = i
        return found

    def _scaled_by(self, atom: Var, writers: Mapping[str, Index]) -> Index | None:
        """The index array of a value that follows from the variables where some of these are scaled."""
        try:
            label = self.program.label_of(atom, {self.program.leaves[path]: Label(i) for path, i in writers.items()})
        except Blocked:
            return None
        return label.index if label else None

    def _kernel_behind(self, atom: Any, index: Index) -> dict[str, Index]:
        """The kernel whose output, behind operations that keep every channel to itself, is this value."""
        program = self.program
        while atom in program.made:
            number, result = program.made[atom]
            equation = program.equations[number]
            if number in program.kernels:
                kernel = equation.invars[program.kernels[number]]
                wanted = [i for a, i in program._factors_behind(number, index) if a is kernel]
                return program.leaves_behind({kernel: wanted[0]}) or {} if wanted else {}
            if equation.primitive.name in ELEMENTWISE:
                shape = equation.outvars[0].aval.shape  # x - mean(x): the value itself, not what is taken of it
                seen = [a for a in equation.invars if program.is_seen(a)]
                before = [(a, index) for a in dict.fromkeys(seen) if a.aval.shape == shape]
            else:
                before = [p for p in program.operands_behind(number, result, index) or [] if program.is_seen(p[0])]
            if len(before) != 1:
                return {}
            atom, index = before[0]
        return {}

    def filter(self, number: int) -> Gate | None:
        """The output of a kernel behind the affine operations that follow it, gated at its own writers."""
        program = self.program
        var = program.equations[number].outvars[0]
        shape, dot, convolution = var.aval.shape, program.dot(number), program.convolution(number)
        if convolution:
            axes = [convolution.outputs[1]]
        elif dot:
            side = program.kernels[number]
            axes = [axis for source, axis in dot.out_axes(side) if source in dot.free[side]]
            axes = [axis for axis in axes if shape[axis] > 1] or axes[-1:]
        if not (dot or convolution) or len(axes) != 1 or program.kernel_leaf(number) is None:
            return None
        value, axis = number, axes[0]
        known, best, own = labels.along(len(shape), axis, shape[axis]), (value, axis), (value, axis)
        while True:
            users = program.uses.get(var, [])
            if len(users) != 1 or var in program.outputs:
                break
            equation = program.equations[users[0]]
            name = equation.primitive.name
            others = [atom for atom in equation.invars if atom is not var]
            affine = name in ("add", "sub", "mul", "div", "neg", "add_any") or name in _KEPT
            if not affine or any(program.is_seen(atom) for atom in others) or len(others) > 1:
                break
            if name in _KEPT:
                try:
                    found = [Label(known) if atom is var else None for atom in equation.invars]
                    known = program.step(users[0], found)[0].index
                except Blocked:
                    break
            var, value = equation.outvars[0], users[0]
            axes = labels.varying(known) or [axis]
            if len(axes) == 1 and var.aval.shape[axes[0]] == shape[axis] and name not in labels.IN_PLACE | _KEPT:
                best = value, axes[0]
        path = _module(program.kernel_leaf(number))
        gates = (self.gate(*place, readers=False) for place in dict.fromkeys([best, own]))
        return next((dataclasses.replace(gate, name=path) for gate in gates if gate), None)

    def factors(self, leaves: Mapping[str, Index]) -> tuple[Factor, ...]:
        ordered = sorted(leaves, key=self.first_use)
        return tuple(Factor(p, leaves[p].shape, tuple(leaves[p].ravel().tolist())) for p in ordered)

    def first_use(self, path: str) -> int:
        return self.program.uses[self.program.leaves[path]][0]

    def name(self, writers: Mapping[str, Index], readers: Mapping[str, Index]) -> str:
        if writers:
            return _module(max(writers, key=self.first_use))
        return f"{_module(min(readers, key=self.first_use))}/input"


def _module(path: str) -> str:
    """Of the module that a leaf belongs to: without the collection and the name of the leaf."""
    parts = path.split("/")
    if parts[-1] == "value" and len(parts) > 2:
        parts = parts[:-1]
    inner = parts[1:] if parts[0] == "params" else parts
    return "/".join(inner[:-1] or inner or parts)


def _names(gates: Sequence[Gate], taken: Sequence[str]) -> list[str]:
    """Unique names: a second one of the same name has a number."""
    names = list(taken)
    for gate in gates:
        name, number = gate.name, 2
        while name in names:
            name, number = f"{gate.name}_{number}", number + 1
        names.append(name)
    return names[len(taken) :]


def _groups(finder: _Finder, head: int, index: Index) -> tuple[list[Gate], tuple[int, int]]:
    """All groups that may be gates, and value and axis of the one that the head reads."""
    program = finder.program
    found: dict[tuple[int, int], Gate | None] = {}
    features = None
    for number in program.kernels:
        chain = finder.origins(number)
        if number == head:
            features = _features(finder, chain, found)
            continue
        if not chain:
            continue
        value, origin = chain[-1]
        axis = finder.channel_axis(value, origin)
        if axis is None or program.equations[value].outvars[0] not in program.learned:
            continue  # one entry, or the images themselves
        if (value, axis) not in found:
            found[value, axis] = finder.gate(value, axis)
    if features is None:
        raise _no_head("what it reads cannot be gated")
    order = sorted((key for key, gate in found.items() if gate), key=lambda key: key)
    return [found[key] for key in order], features


def _features(finder: _Finder, chain: list[tuple[int, Index]], found: dict[Any, Any]) -> tuple[int, int] | None:
    """The value nearest to its origin whose gains the head absorbs."""
    for value, index in reversed(chain):
        axis = finder.channel_axis(value, index)
        if axis is None:
            axis = len(index.shape) - 1
        gate = finder.gate(value, axis)
        if gate and gate.readers:
            found[value, axis] = gate
            return value, axis
    return None


# The proof


def _proved(
    proof: "_Proof", groups: list[Gate], filters: list[Gate], features: tuple[int, int]
) -> tuple[list[Gate], list[Gate]]:
    """The gates whose masks do to the logits what scaling the values does."""
    sides = [(gate, "writers") for gate in proof.gates if gate.writers]
    sides += [(gate, "readers") for gate in proof.gates if gate.readers]
    held = proof.held(sides)
    kept = []
    for gate in proof.gates:
        gate = dataclasses.replace(
            gate,
            writers=gate.writers if (gate, "writers") in held else (),
            readers=gate.readers if (gate, "readers") in held else (),
            kernels=gate.kernels if (gate, "writers") in held else (),
        )
        kept.append(gate if gate.factors else None)
    found = [gate for gate in kept[: len(groups)] if gate]
    if not any((gate.value, gate.axis) == features and gate.readers for gate in found):
        raise InputError(
            "scaling the rows of the head's kernel does not do to the logits what scaling the features does; "
            "the network's logits must be finite and depend on its features through one linear head"
        )
    return found, [gate for gate in kept[len(groups) :] if gate]


class _Proof:
    """Compares masked variables with scaled values."""

    def __init__(self, apply: Any, program: Program, variables: Any, images: jax.Array, gates: list[Gate]):
        self.program, self.gates = program, gates
        self.leaves, self.images = jax.tree.leaves(variables), images[:_MOST_IMAGES]
        self.closed = flatten(apply, variables, self.images)
        self.places = tuple(sorted({(gate.value, gate.axis) for gate in gates}))
        self.rng = np.random.default_rng(0)
        self.run = jax.jit(partial(_scaled_logits, self.closed, self.places), static_argnums=0)

    def held(self, sides: list[tuple[Gate, str]], at_once: int = 12) -> set[tuple[Gate, str]]:
        """Those that hold. Several are tried at once, far from one another; where that fails, one by one."""
        held: set[tuple[Gate, str]] = set()
        count = max(1, math.ceil(len(sides) / at_once))
        for start in range(count):
            some = sides[start::count]
            held |= set(some) if self.holds(some) else {side for side in some if self.holds([side], precise=True)}
        return held

    def holds(self, sides: list[tuple[Gate, str]], precise: bool = False) -> bool:
        gains = {side: self.random_gains(side[0].channels) for side in sides}
        error = self.error(gains, jnp.float32)
        if precise and not error <= TOLERANCE:  # rounding alone can do that in a deep network
            with jax.enable_x64(True):
                error = self.error(gains, jnp.float64)
        return error <= TOLERANCE

    def random_gains(self, channels: int) -> np.ndarray:
        gains = self.rng.uniform(0, 1, channels)
        chosen = self.rng.uniform(size=channels)
        gains[chosen < 0.3], gains[chosen > 0.7] = 0, 1
        if channels > 1:
            gains[self.rng.permutation(channels)[:2]] = 0, 1
        return gains.astype(np.float32)

    def error(self, gains: Mapping[tuple[Gate, str], np.ndarray], dtype: Any) -> float:
        scales = {place: np.ones(self.channels(place)) for place in self.places}
        masked = dict(zip(self.program.leaves, self.leaves, strict=True))
        for (gate, side), gain in gains.items():
            scales[gate.value, gate.axis] = scales[gate.value, gate.axis] * gain
            for factor in getattr(gate, side):
                masked[factor.path] = np.asarray(masked[factor.path]) * spread(factor, gain)
            for factor in gate.kernels if side == "writers" else ():
                masked[factor.path] = np.asarray(masked[factor.path]) * spread(factor, gain > 0)
        ones = [np.ones(len(scale)) for scale in scales.values()]
        expected = self.logits(self.leaves, list(scales.values()), dtype)
        actual = self.logits(list(masked.values()), ones, dtype)
        most = np.abs(expected).max()
        return float(np.abs(actual - expected).max() / most) if np.isfinite(expected).all() and most > 0 else math.inf

    def channels(self, place: tuple[int, int]) -> int:
        value, axis = place
        return self.program.equations[value].outvars[0].aval.shape[axis]

    def logits(self, leaves: list[Any], scales: list[np.ndarray], dtype: Any) -> np.ndarray:
        return np.asarray(self.run(dtype, leaves, self.images, scales))


def _scaled_logits(closed: Any, places: Any, dtype: Any, leaves: Any, images: Any, scales: Any) -> jax.Array:
    scale: dict[int, Any] = {}
    for (value, axis), gain in zip(places, scales, strict=True):
        rank = len(closed.jaxpr.eqns[value].outvars[0].aval.shape)
        factor = jnp.asarray(gain, dtype).reshape([-1 if a == axis else 1 for a in range(rank)])
        scale[value] = scale[value] * factor if value in scale else factor
    outputs, _ = evaluate(closed, [*leaves, images], scale=scale, dtype=dtype)
    return outputs[0]


def spread(factor: Factor, gain: Any) -> Any:
    """The array that a leaf is multiplied by, for gains `(channels,)`: float32, of the shape of the factor."""
    index = np.asarray(factor.index).reshape(factor.shape)
    array = np if isinstance(gain, np.ndarray) else jnp
    return array.where(index >= 0, gain[np.maximum(index, 0)], 1.0).astype(np.float32)
