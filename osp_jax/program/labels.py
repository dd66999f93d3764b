"""Index arrays: the number of the channel whose gain scales each entry of a value.

An index array has the rank of its value, and axes of size 1 where all entries along the axis agree. `NONE` marks an
entry that no gain scales, `ANY` one that any gain may scale: a zero, or an entry that nothing reads.

Operations that only move data run on index arrays themselves: `forward` from operands to results, `backward` from a
result to operands.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

NONE, ANY = -1, -2

Index = np.ndarray

# Operations that keep the position of every entry.
IN_PLACE = frozenset(
    "convert_element_type copy copy_p name stop_gradient optimization_barrier reduce_precision sharding_constraint "
    "device_put pvary mesh_cast".split()
)

# Operations that keep every entry, at any position.
KEEPS_ALL = IN_PLACE | frozenset("reshape transpose squeeze expand_dims broadcast_in_dim pad rev".split())


def along(rank: int, axis: int, channels: int) -> Index:
    """The index array of a value whose `axis` is the channel axis."""
    return np.arange(channels, dtype=np.int32).reshape([-1 if a == axis else 1 for a in range(rank)])


def nothing(rank: int) -> Index:
    return np.full((1,) * rank, NONE, np.int32)


def is_nothing(index: Index) -> bool:
    """Whether no gain scales any entry."""
    return bool(index.max(initial=NONE) < 0)


def compressed(index: Index, strict: bool = False) -> Index:
    """Reduces every axis along which the entries agree to size 1; if `strict`, along which they are equal."""
    for axis, size in enumerate(index.shape):
        if size > 1:
            most = index.max(axis=axis, keepdims=True)
            if ((index == most) | ((index == ANY) & (not strict))).all():
                index = most
    return index


def unified(first: Index, second: Index, strict: bool = False) -> Index | None:
    """The index array that agrees with both; None if they contradict each other; `strict` as for `compressed`."""
    agree = (first == second) | (first == ANY) | (second == ANY)
    return compressed(np.maximum(first, second), strict) if agree.all() else None


def collapsed(index: Index, axes: Iterable[int]) -> Index | None:
    """Reduces these axes to size 1; None if entries along one contradict each other."""
    for axis in axes:
        if index.shape[axis] > 1:
            most = index.max(axis=axis, keepdims=True)
            if not ((index == most) | (index == ANY)).all():
                return None
            index = most
    return index


def varying(index: Index) -> list[int]:
    """The axes along which the entries differ."""
    return [axis for axis, size in enumerate(index.shape) if size > 1]


def fitted(index: Index, shape: Sequence[int]) -> Index | None:
    """The index array of an operand of `shape` that is broadcast, axis by axis, to the value of `index`."""
    return collapsed(index, [axis for axis, size in enumerate(shape) if size == 1])


def expanded(index: Index, shape: Sequence[int]) -> Index:
    return np.broadcast_to(index, shape)


def reshaped(index: Index, before: Sequence[int], after: Sequence[int]) -> Index:
    """The index array after a reshape; expands only axes that are merged or split."""
    result: list[int] = []
    parts: list[tuple[int, ...]] = []
    for old, new in _factors(before, after):
        sizes = index.shape[old.start : old.stop]
        constant = all(size == 1 for size in sizes)
        parts.append(tuple(sizes) if constant else tuple(before[old.start : old.stop]))
        result.extend([1] * len(new) if constant else [after[axis] for axis in new])
    full = np.broadcast_to(index, [size for part in parts for size in part])
    return full.reshape(result)


def _factors(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The runs of axes that a reshape turns into one another, from the first axis to the last."""
    runs, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        start, other = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while math.prod(before[start:i]) != math.prod(after[other:j]):
            if math.prod(before[start:i]) < math.prod(after[other:j]):
                i += 1
            else:
                j += 1
        runs.append((range(start, i), range(other, j)))
    return runs


def forward(name: str, params: dict[str, Any], shapes: Sequence[Sequence[int]], indices: Sequence[Any]) -> list[Index]:
    """The index arrays of the results of an operation that moves data.

    Args:
      shapes: shapes of the operands.
      indices: index arrays of the operands; for positions (starts of slices, indices of a gather) their values.

    Raises:
      KeyError: `name` is not such an operation.
    """
    return [compressed(index) for index in _FORWARD[name](params, shapes, indices)]


def backward(
    name: str, params: dict[str, Any], shapes: Sequence[Sequence[int]], out: Index, result: int, values: Sequence[Any]
) -> list[Index | None] | None:
    """The index arrays of the operands of an operation that moves data, if that of result number `result` is `out`;
    None if there are none.

    Args:
      shapes: shapes of the operands.
      values: values of constant operands, else None.

    Raises:
      KeyError: `name` is not such an operation.
    """
    found = _BACKWARD[name](params, shapes, out, result, values)
    return None if found is None else [None if i is None else compressed(i, strict=True) for i in found]


def moves(name: str) -> bool:
    """Whether an operation only moves data."""
    return name in _FORWARD


# Forward, one function per operation: (params, shapes of the operands, index arrays) -> index arrays of the results.


def _transpose(params, shapes, indices):
    return [indices[0].transpose(params["permutation"])]


def _broadcast_in_dim(params, shapes, indices):
    sizes = [1] * len(params["shape"])
    for axis, target in enumerate(params["broadcast_dimensions"]):
        sizes[target] = indices[0].shape[axis]
    return [indices[0].reshape(sizes)]


def _reshape(params, shapes, indices):
    return [reshaped(indices[0], shapes[0], params["new_sizes"])]


def _squeeze(params, shapes, indices):
    return [indices[0].squeeze(tuple(params["dimensions"]))]


def _expand_dims(params, shapes, indices):
    return [np.expand_dims(indices[0], tuple(params["dimensions"]))]


def _rev(params, shapes, indices):
    return [np.flip(indices[0], tuple(params["dimensions"]))]


def _slice(params, shapes, indices):
    return [indices[0][_slices(params, indices[0].shape)]]


def _slices(params, shape):
    strides = params["strides"] or (1,) * len(shape)
    spans = zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True)
    return tuple(slice(None) if size == 1 else slice(start, stop, step) for start, stop, step, size in spans)


def _pad(params, shapes, indices):
    index, fill = indices
    padded = [axis for axis, config in enumerate(params["padding_config"]) if tuple(config) != (0, 0, 0)]
    if fill == ANY:  # zero padding: an axis along which the entries agree stays so
        padded = [axis for axis in padded if index.shape[axis] > 1]
    shape = [shapes[0][axis] if axis in padded else size for axis, size in enumerate(index.shape)]
    config = [tuple(c) if axis in padded else (0, 0, 0) for axis, c in enumerate(params["padding_config"])]
    return [_run(lambda x: lax.pad(x, np.int32(fill), config), expanded(index, shape))]


def _concatenate(params, shapes, indices):
    axis = params["dimension"]
    common = np.broadcast_shapes(*[(*i.shape[:axis], 1, *i.shape[axis + 1 :]) for i in indices])
    parts = []
    for shape, index in zip(shapes, indices, strict=True):
        parts.append(expanded(index, (*common[:axis], shape[axis], *common[axis + 1 :])))
    return [np.concatenate(parts, axis)]


def _split(params, shapes, indices):
    (index,), axis = indices, params["axis"]
    if index.shape[axis] == 1:
        return [index] * len(params["sizes"])
    return np.split(index, np.cumsum(params["sizes"])[:-1], axis)


def _dynamic_slice(params, shapes, indices):
    index, *starts = indices
    spans = []
    for axis, (start, size) in enumerate(zip(starts, params["slice_sizes"], strict=True)):
        start = int(np.clip(start, 0, shapes[0][axis] - size))
        spans.append(slice(None) if index.shape[axis] == 1 else slice(start, start + size))
    return [index[tuple(spans)]]


def _gather(params, shapes, indices):
    index, where = indices
    options = {key: params[key] for key in ("dimension_numbers", "slice_sizes", "mode")}
    gather = lambda x: lax.gather(x, np.asarray(where), **options, fill_value=ANY)  # noqa: E731
    return [_run(gather, expanded(index, shapes[0]))]


def _tile(params, shapes, indices):
    repeats = [1 if size == 1 else n for size, n in zip(indices[0].shape, params["reps"], strict=True)]
    return [np.tile(indices[0], repeats)]


def _in_place(params, shapes, indices):
    return list(indices)


def _run(function: Callable[[Any], Any], index: Index) -> Index:
    with jax.ensure_compile_time_eval():
        return np.asarray(function(np.ascontiguousarray(index, np.int32)))


_FORWARD: dict[str, Callable[..., list[Index]]] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "rev": _rev,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "tile": _tile,
    **{name: _in_place for name in IN_PLACE},
}


# Backward, one function per operation: index arrays for the operands, None for those without one.


def _transpose_back(params, shapes, out, result, values):
    return [out.transpose(np.argsort(params["permutation"]))]


def _broadcast_back(params, shapes, out, result, values):
    kept = params["broadcast_dimensions"]
    repeated = [target for axis, target in enumerate(kept) if shapes[0][axis] == 1]
    source = collapsed(out, [*repeated, *[axis for axis in range(out.ndim) if axis not in kept]])
    return None if source is None else [source.reshape([source.shape[target] for target in kept])]


def _reshape_back(params, shapes, out, result, values):
    return [reshaped(out, params["new_sizes"], shapes[0])]


def _squeeze_back(params, shapes, out, result, values):
    removed = [axis % len(shapes[0]) for axis in params["dimensions"]]
    return [np.expand_dims(out, tuple(removed))]


def _expand_back(params, shapes, out, result, values):
    return [out.squeeze(tuple(params["dimensions"]))]


def _rev_back(params, shapes, out, result, values):
    return [np.flip(out, tuple(params["dimensions"]))]


def _slice_back(params, shapes, out, result, values):
    spans, index = _slices(params, shapes[0]), out
    for axis, span in enumerate(spans):
        count = len(range(shapes[0][axis])[span])
        if count < shapes[0][axis] or index.shape[axis] > 1:
            sizes = [shapes[0][axis] if a == axis else size for a, size in enumerate(index.shape)]
            whole = np.full(sizes, ANY, np.int32)
            whole[(slice(None),) * axis + (span,)] = index
            index = whole
    return [index]


def _pad_back(params, shapes, out, result, values):
    for axis in varying(out):
        low, _, inner = params["padding_config"][axis]
        places = low + (inner + 1) * np.arange(shapes[0][axis])
        inside = (places >= 0) & (places < out.shape[axis])
        taken = np.take(out, np.where(inside, places, 0), axis)
        mask = inside.reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        out = np.where(mask, taken, ANY).astype(np.int32)
    return [out, None]


def _concatenate_back(params, shapes, out, result, values):
    axis = params["dimension"]
    if out.shape[axis] == 1:
        return [out] * len(shapes)
    return np.split(out, np.cumsum([shape[axis] for shape in shapes])[:-1], axis)


def _split_back(params, shapes, out, result, values):
    axis, sizes = params["axis"], params["sizes"]
    whole = np.full([shapes[0][axis] if a == axis else n for a, n in enumerate(out.shape)], ANY, np.int32)
    start = sum(sizes[:result])
    whole[(slice(None),) * axis + (slice(start, start + sizes[result]),)] = out
    return [whole]


def _dynamic_slice_back(params, shapes, out, result, values):
    if any(value is None for value in values[1:]):
        return None
    starts = [
        int(np.clip(start, 0, size - taken))
        for start, size, taken in zip(values[1:], shapes[0], params["slice_sizes"], strict=True)
    ]
    limits = [start + size for start, size in zip(starts, params["slice_sizes"], strict=True)]
    span = {"start_indices": starts, "limit_indices": limits, "strides": None}
    return [*_slice_back(span, shapes, out, result, values), *[None] * len(starts)]


def _gather_back(params, shapes, out, result, values):
    if values[1] is None:
        return None
    source = _by_numbers(lambda numbers: _gather(params, shapes, [numbers, values[1]])[0], shapes[0], out)
    return None if source is None else [source, None]


def _tile_back(params, shapes, out, result, values):
    source = _by_numbers(lambda numbers: _tile(params, shapes, [numbers])[0], shapes[0], out)
    return None if source is None else [source]


def _by_numbers(move, shape, out):
    """Numbers the entries of the operand and finds where they end up."""
    numbers = np.arange(math.prod(shape), dtype=np.int32)
    read = move(numbers.reshape(shape))
    wanted, read = expanded(out, read.shape).ravel(), read.ravel()
    wanted, read = wanted[(read >= 0) & (wanted != ANY)], read[(read >= 0) & (wanted != ANY)]
    whole = np.full(numbers.size, ANY, np.int32)
    whole[read] = wanted
    return whole.reshape(shape) if (whole[read] == wanted).all() else None


def _in_place_back(params, shapes, out, result, values):
    return [out if number == result else None for number in range(len(shapes))]


_BACKWARD: dict[str, Callable[..., list[Index | None] | None]] = {
    "transpose": _transpose_back,
    "broadcast_in_dim": _broadcast_back,
    "reshape": _reshape_back,
    "squeeze": _squeeze_back,
    "expand_dims": _expand_back,
    "rev": _rev_back,
    "slice": _slice_back,
    "pad": _pad_back,
    "concatenate": _concatenate_back,
    "split": _split_back,
    "dynamic_slice": _dynamic_slice_back,
    "gather": _gather_back,
    "tile": _tile_back,
    **{name: _in_place_back for name in IN_PLACE},
}
