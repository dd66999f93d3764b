"""Candidate gates in a traced program, and the leaves that would carry their gains."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.extend.core import Var

from osp_jax.program import labels
from osp_jax.program.gate import Factor, Gate
from osp_jax.program.head import no_head
from osp_jax.program.labels import Index
from osp_jax.program.scaling import ELEMENTWISE, Blocked, Label, Program, closed

_WINDOWS = frozenset("reduce_window_sum reduce_window_max".split())
_POOLS = frozenset("reduce_sum reduce_max".split()) | _WINDOWS
_AFFINE = frozenset("add sub mul div neg add_any".split())

Place = tuple[int, int]  # number of the equation that computes a value, and the value's channel axis


def candidate_groups(program: Program, head: int) -> tuple[list[Gate], Place]:
    """All candidate groups, from input to output, and the place of the one that the head reads.

    Args:
      head: number of the product that computes the logits.

    Raises:
      InputError: no value that the head reads can be gated.
    """
    found: dict[Place, Gate | None] = {}
    for number in program.kernels:
        places = list(_places(program, number)) if number != head else []
        if places and places[-1] not in found and _value(program, places[-1]) in program.learned:
            found[places[-1]] = candidate(program, places[-1])
    # The place closest to its origin that only the head reads.
    for features in reversed(list(_places(program, head))):
        gate = found.get(features) or candidate(program, features)
        if gate and gate.readers:
            found[features] = gate
            return [found[place] for place in sorted(found) if found[place]], features
    raise no_head("its input cannot be gated")


def candidate_filters(program: Program, head: int) -> list[Gate]:
    """The output of each kernel except the head's, behind the affine operations that follow it, if it may be gated."""
    found = [_filter(program, number) for number in program.kernels if number != head]
    return [gate for gate in found if gate]


def with_unique_names(gates: Sequence[Gate]) -> list[Gate]:
    """Makes names unique: appends a number to each repeated name."""
    found: dict[str, Gate] = {}
    for gate in gates:
        name, number = gate.name, 2
        while name in found:
            name, number = f"{gate.name}_{number}", number + 1
        found[name] = dataclasses.replace(gate, name=name)
    return list(found.values())


def candidate(program: Program, place: Place, *, readers: bool = True) -> Gate | None:
    """The gate of a value; None if neither its writers nor its readers can carry the gains."""
    var = _value(program, place)
    channels = var.aval.shape[place[1]]
    index = labels.along(len(var.aval.shape), place[1], channels)
    writers = _writers(program, place[0], index)
    reading = _readers(program, var, index) if readers else {}
    if not writers and not reading:
        return None
    return Gate(
        name=_name(program, writers, reading),
        channels=channels,
        value=place[0],
        axis=place[1],
        writers=_factors(program, writers),
        readers=_factors(program, reading),
        kernels=_factors(program, _kernels(program, place[0], index, writers) if writers else {}),
        batch_axis=program.batch_axes[var],
    )


def _value(program: Program, place: Place) -> Var:
    return program.equations[place[0]].outvars[0]


# The value that a kernel reads


def _places(program: Program, number: int) -> Iterator[Place]:
    """The input of a kernel, from its operand back to its origin, through operations that keep every channel."""
    atom, index = program.read_operand(number), program.summed_index(number)
    while index is not None and atom in program.made:
        made, result = program.made[atom]
        axis = _channel_axis(program, atom, index)
        if result == 0 and axis is not None:
            yield made, axis
        equation = program.equations[made]
        name = equation.primitive.name
        by_constant = name in ("mul", "div") and any(program.is_constant(operand) for operand in equation.invars)
        by_constant = by_constant or program.unchanged_operand(made) is not None
        if name not in labels.KEEPS_ALL and name not in _POOLS and not by_constant:
            return
        if name in _WINDOWS and axis is not None:  # pooling changes positions, not channels
            index = labels.along(index.ndim, axis, atom.aval.shape[axis])
        before = _seen_behind(program, made, result, index)
        if len(before) != 1:
            return
        atom, index = before[0]


def _seen_behind(program: Program, number: int, result: int, index: Index) -> list[tuple[Any, Index]]:
    found = program.operands_behind(number, result, index) or []
    return [pair for pair in found if program.depends_on_images(pair[0])]


def _channel_axis(program: Program, var: Var, index: Index) -> int | None:
    """The channel axis of a value, if a kernel sums over the entries that `index` numbers."""
    axes = labels.varying(index) or [axis for axis, size in enumerate(var.aval.shape) if size == 1][-1:]
    if program.batch_axes[var] in labels.varying(index):  # merged with images, as heads are for a batched product
        return None
    if len(axes) <= 1:
        return axes[0] if axes else None
    sources = {axis: _sources(program, var, axis) for axis in axes}
    for kind in ("head", "kernel"):
        for axis in axes:
            if kind in sources[axis]:
                return axis
    return axes[-1]


def _sources(program: Program, var: Var, axis: int) -> set[str]:
    """The origins of the entries along an axis: 'kernel', the output axis of a kernel; 'head', a batch axis of a
    product of two activations."""
    if axis == program.batch_axes[var]:
        return set()
    pending, seen, kinds = [(var, labels.along(len(var.aval.shape), axis, var.aval.shape[axis]))], set(), set()
    while pending:
        atom, index = pending.pop()
        key = (atom, index.shape, index.tobytes())
        if key in seen or atom not in program.made or not labels.varying(index):
            continue
        seen.add(key)
        number, result = program.made[atom]
        equation = program.equations[number]
        if program.is_product(number):
            kinds.add(_source(program, number, index))
        elif equation.primitive.name in ELEMENTWISE:
            same = [operand for operand in equation.invars if operand.aval.shape == atom.aval.shape]
            pending += [(operand, index) for operand in same if program.depends_on_images(operand)]
        else:
            pending += _seen_behind(program, number, result, index)
    return kinds


def _source(program: Program, number: int, index: Index) -> str:
    if number in program.kernels:
        return "kernel" if _behind_kernel(program, number, index) is not None else ""
    dot = program.dot(number)
    batch = range(len(dot.batch[0])) if dot else ()
    return "head" if set(labels.varying(index)) <= set(batch) else ""


def _behind_kernel(program: Program, number: int, index: Index) -> Index | None:
    """The index array of a kernel whose product has `index`."""
    kernel = program.equations[number].invars[program.kernels[number]]
    return next((wanted for atom, wanted in program.factors_behind(number, index) if atom is kernel), None)


# The leaves that carry the gains


def _writers(program: Program, value: int, index: Index) -> dict[str, Index]:
    """The leaves whose scaling scales this value and nothing else on the way to the logits."""
    leaves = _scaled(program.leaves_behind({program.equations[value].outvars[0]: index}))
    return leaves if leaves and _passes(program, _starts(program, leaves), target=(value, index)) else {}


def _readers(program: Program, var: Var, index: Index) -> dict[str, Index]:
    """The kernels that absorb the gains of a value at each of its reads."""
    try:
        reads = program.push({var: Label(index)}, absorb=True)
    except Blocked:
        return {}
    demands: dict[Var, Index] = {}
    for number, wanted in reads.items():
        kernel = program.equations[number].invars[program.kernels[number]]
        agreed = labels.unified(demands.get(kernel, wanted), wanted)
        if agreed is None:
            return {}
        demands[kernel] = agreed
    leaves = _scaled(program.leaves_behind(demands))
    return leaves if leaves and _passes(program, _starts(program, leaves), reads=reads) else {}


def _kernels(program: Program, value: int, index: Index, writers: Mapping[str, Index]) -> dict[str, Index]:
    """Kernels that may be zeroed with channels: writers, and kernels in front of a writer that scales the channel."""
    kernels = {program.kernel_leaf(number) for number in program.kernels}
    found = {path: wanted for path, wanted in writers.items() if path in kernels}
    starts = _starts(program, writers)
    for equation in program.equations[: value + 1]:
        derived = [atom for atom in equation.invars if program.is_derived(atom)]
        seen = [atom for atom in equation.invars if program.depends_on_images(atom)]
        if equation.primitive.name != "mul" or len(derived) != 1 or len(seen) != 1:
            continue
        scaled = _label_of(program, derived[0], starts)
        if scaled is None or seen[0].aval.shape != equation.outvars[0].aval.shape:
            continue
        for path, wanted in _scaled(_kernel_behind(program, seen[0], scaled.index)).items():
            zeroed = {program.leaves[path]: Label(wanted, scaled=False)}
            if path not in found and _passes(program, {**starts, **zeroed}, target=(value, index)):
                found[path] = wanted
    return found


def _kernel_behind(program: Program, atom: Any, index: Index) -> dict[str, Index]:
    """The kernel whose output this value is, behind operations that do not mix channels."""
    while atom in program.made:
        number, result = program.made[atom]
        equation = program.equations[number]
        if number in program.kernels:
            wanted = _behind_kernel(program, number, index)
            kernel = equation.invars[program.kernels[number]]
            return {} if wanted is None else program.leaves_behind({kernel: wanted}) or {}
        if equation.primitive.name in ELEMENTWISE:  # in x - mean(x) follow x, not the reduced value
            seen = [operand for operand in equation.invars if program.depends_on_images(operand)]
            same = [operand for operand in seen if operand.aval.shape == atom.aval.shape]
            before = [(operand, index) for operand in dict.fromkeys(same)]
        else:
            before = _seen_behind(program, number, result, index)
        if len(before) != 1:
            return {}
        atom, index = before[0]
    return {}


def _scaled(leaves: Mapping[str, Index] | None) -> dict[str, Index]:
    return {path: closed(index) for path, index in (leaves or {}).items() if not labels.is_nothing(index)}


def _starts(program: Program, leaves: Mapping[str, Index]) -> dict[Var, Label]:
    return {program.leaves[path]: Label(index) for path, index in leaves.items()}


def _passes(program: Program, starts: Mapping[Var, Label], **options: Any) -> bool:
    try:
        program.push(starts, **options)
    except Blocked:
        return False
    return True


def _label_of(program: Program, atom: Var, starts: Mapping[Var, Label]) -> Label | None:
    try:
        return program.label_of(atom, starts)
    except Blocked:
        return None


# Filters


def _filter(program: Program, number: int) -> Gate | None:
    """The output of a kernel behind the affine operations that follow it, gated at its own writers."""
    axis, path = _output_axis(program, number), program.kernel_leaf(number)
    if axis is None or path is None:
        return None
    places = [(number, axis), *_affine_places(program, number, axis)]
    # The last of them, or the kernel's own output if the next operation mixes channels.
    gates = (candidate(program, place, readers=False) for place in dict.fromkeys([places[-1], places[0]]))
    return next((dataclasses.replace(gate, name=module_of(path)) for gate in gates if gate), None)


def _output_axis(program: Program, number: int) -> int | None:
    """The axis of a product that holds its kernel's outputs; None if there are several."""
    dot, convolution = program.dot(number), program.convolution(number)
    if convolution:
        return convolution.outputs[1]
    if dot is None:
        return None
    side, shape = program.kernels[number], program.equations[number].outvars[0].aval.shape
    axes = [axis for source, axis in dot.out_axes(side) if source in dot.free[side]]
    axes = [axis for axis in axes if shape[axis] > 1] or axes[-1:]
    return axes[0] if len(axes) == 1 else None


def _affine_places(program: Program, number: int, axis: int) -> Iterator[Place]:
    """The places behind affine operations, and pooling, after a product, as long as nothing else reads the value."""
    var = program.equations[number].outvars[0]
    channels = var.aval.shape[axis]
    index = labels.along(len(var.aval.shape), axis, channels)
    while len(program.uses.get(var, ())) == 1 and var not in program.outputs:
        (number,) = program.uses[var]
        equation = program.equations[number]
        name = equation.primitive.name
        others = [atom for atom in equation.invars if atom is not var]
        if (
            name not in _AFFINE | labels.KEEPS_ALL | _POOLS
            or len(others) > 1
            or any(map(program.depends_on_images, others))
        ):
            return
        if name not in _AFFINE:
            try:
                moved = program.step(number, [Label(index) if atom is var else None for atom in equation.invars])
            except Blocked:
                return
            index = moved[0].index
        var = equation.outvars[0]
        axes = labels.varying(index) or [axis]
        if name in _AFFINE and len(axes) == 1 and var.aval.shape[axes[0]] == channels:
            yield number, axes[0]


# Names


def _factors(program: Program, leaves: Mapping[str, Index]) -> tuple[Factor, ...]:
    ordered = sorted(leaves, key=lambda path: _first_use(program, path))
    return tuple(Factor(path, leaves[path].shape, tuple(leaves[path].ravel().tolist())) for path in ordered)


def _first_use(program: Program, path: str) -> int:
    return program.uses[program.leaves[path]][0]


def _name(program: Program, writers: Mapping[str, Index], readers: Mapping[str, Index]) -> str:
    """The name of the module that writes last, or of the first that reads."""
    if writers:
        return module_of(max(writers, key=lambda path: _first_use(program, path)))
    return f"{module_of(min(readers, key=lambda path: _first_use(program, path)))}/input"


def module_of(path: str) -> str:
    """The path of the module of a leaf: without the collection and the name of the leaf.

    For a key of a flat PyTorch dict, 'layer1.0.bn1.weight', it is 'layer1.0.bn1'.
    """
    parts = path.split("/")
    if len(parts) == 1:
        return path.rpartition(".")[0] or path
    if parts[-1] == "value" and len(parts) > 2:
        parts = parts[:-1]
    inner = parts[1:] if parts[0] == "params" else parts
    return "/".join(inner[:-1] or inner or parts)
