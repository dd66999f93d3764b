"""Operations that `jax2onnx` does not convert, or converts to ones that ONNX Runtime does not run.

`REWRITTEN` replaces operations of the traced program by simpler ones of JAX; `lowerings` converts the remaining ones to
ONNX: padding and pooling over the last axes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pairs = Sequence[tuple[int, int]]


def _pad(operand: jax.Array, value: jax.Array, *, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Padding without interior padding and cropping, which become reshapes and slices."""
    for axis, (_, _, interior) in enumerate(padding_config):
        if interior and operand.shape[axis] > 1:
            shape, config = operand.shape, [(0, 0, 0)] * (operand.ndim + 1)
            config[axis + 1] = (0, interior, 0)
            wide = lax.pad(lax.expand_dims(operand, (axis + 1,)), value, config)
            size = shape[axis] * (interior + 1)
            wide = lax.reshape(wide, (*shape[:axis], size, *shape[axis + 1 :]))
            operand = lax.slice_in_dim(wide, 0, size - interior, axis=axis)
    for axis, (low, high, _) in enumerate(padding_config):
        if low < 0 or high < 0:
            operand = lax.slice_in_dim(operand, max(-low, 0), operand.shape[axis] - max(-high, 0), axis=axis)
    config = [(max(low, 0), max(high, 0), 0) for low, high, _ in padding_config]
    return lax.pad(operand, value, config) if any(map(any, config)) else operand


def _convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: Pairs,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **options: Any,
) -> jax.Array:
    """A convolution in ONNX's order of axes (batch, channels, space; output, input, space), without input dilation."""
    left, right, out = dimension_numbers
    lhs, rhs = lax.transpose(lhs, left), lax.transpose(rhs, right)
    if any(step != 1 for step in lhs_dilation) or any(low < 0 or high < 0 for low, high in padding):
        config = [(0, 0, 0)] * 2 + [(*pair, step - 1) for pair, step in zip(padding, lhs_dilation, strict=True)]
        lhs, padding = _pad(lhs, jnp.zeros((), lhs.dtype), padding_config=config), [(0, 0)] * len(padding)
    result = lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return lax.transpose(result, np.argsort(out))


def _pooling(
    operand: jax.Array,
    *,
    start: float,
    pool: Callable[..., jax.Array],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Pairs,
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
    **_: Any,
) -> jax.Array:
    """Pooling over the last axes of a value with two axes before them, as in ONNX."""
    config = [(*pair, step - 1) for pair, step in zip(padding, base_dilation, strict=True)]
    holds = all(step == 1 for step in base_dilation)
    # ONNX Runtime requires paddings smaller than the window.
    fits = all(0 <= n < max(size, 1) for pair, size in zip(padding, window_dimensions, strict=True) for n in pair)
    if not (holds and fits):
        operand = _pad(operand, jnp.asarray(start, operand.dtype), padding_config=config)
        padding = [(0, 0)] * operand.ndim
    space = [
        axis
        for axis in range(operand.ndim)
        if window_dimensions[axis] > 1 or window_strides[axis] > 1 or any(padding[axis])
    ]
    if not space:
        return operand
    others = [axis for axis in range(operand.ndim) if axis not in space]
    order = (*others, *space)
    moved = lax.transpose(operand, order)
    lead = moved.shape[: len(others)]
    flat = (1, 1, *lead)[len(lead) :] if len(lead) < 2 else (lead[0], math.prod(lead[1:]))
    given = [
        [values[axis] for axis in space] for values in (window_dimensions, window_strides, padding, window_dilation)
    ]
    pooled = pool(lax.reshape(moved, (*flat, *moved.shape[len(others) :])), *given)
    pooled = lax.reshape(pooled, (*lead, *pooled.shape[2:]))
    return lax.transpose(pooled, np.argsort(order))


def _maximum(operand: jax.Array, sizes: Any, strides: Any, padding: Any, dilation: Any) -> jax.Array:
    options = [(1, 1, *sizes), (1, 1, *strides), [(0, 0), (0, 0), *padding]]
    return lax.reduce_window(operand, -jnp.inf, lax.max, *options, window_dilation=(1, 1, *dilation))


def _sum(operand: jax.Array, sizes: Any, strides: Any, padding: Any, dilation: Any) -> jax.Array:
    """Like `_maximum`; a sum over dilated windows is a convolution with ones."""
    if all(step == 1 for step in dilation):
        options = [(1, 1, *sizes), (1, 1, *strides), [(0, 0), (0, 0), *padding]]
        return lax.reduce_window(operand, 0.0, lax.add, *options)
    channels = operand.shape[1]
    kernel = jnp.ones((channels, 1, *sizes), operand.dtype)
    options = {"rhs_dilation": dilation, "feature_group_count": channels}
    return lax.conv_general_dilated(operand, kernel, strides, padding, **options)


def _minimum(operand: jax.Array, **params: Any) -> jax.Array:
    return -_pooling(-operand, start=-math.inf, pool=_maximum, **params)


def _stack(*operands: jax.Array, axis: int, **_: Any) -> jax.Array:
    return lax.concatenate([lax.expand_dims(operand, (axis,)) for operand in operands], axis)


def _remainder(one: jax.Array, other: jax.Array) -> jax.Array:
    quotient = one / other if jnp.issubdtype(one.dtype, jnp.floating) else lax.div(one, other)
    if jnp.issubdtype(one.dtype, jnp.floating):
        quotient = jnp.where(quotient < 0, lax.ceil(quotient), lax.floor(quotient))
    return one - other * quotient


def _product(lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """A product without a summed axis, such as of two vectors to a matrix, becomes elementwise."""
    (summed, _), (left_batch, right_batch) = dimension_numbers
    if summed:
        return lax.dot_general(lhs, rhs, dimension_numbers, **params)
    left = [axis for axis in range(lhs.ndim) if axis not in left_batch]
    right = [axis for axis in range(rhs.ndim) if axis not in right_batch]
    count = len(left_batch)
    lhs, rhs = lax.transpose(lhs, (*left_batch, *left)), lax.transpose(rhs, (*right_batch, *right))
    lhs = lax.expand_dims(lhs, range(lhs.ndim, lhs.ndim + len(right)))
    rhs = lax.expand_dims(rhs, range(count, count + len(left)))
    return lhs * rhs


REWRITTEN: dict[str, Callable[..., jax.Array]] = {
    "pad": _pad,
    "conv_general_dilated": _convolution,
    "reduce_window_max": partial(_pooling, start=-math.inf, pool=_maximum),
    "reduce_window_min": _minimum,
    "reduce_window_sum": partial(_pooling, start=0.0, pool=_sum),
    "stack": _stack,
    "rem": _remainder,
    "dot_general": _product,
}


class _Pad:
    """`lax.pad`, without interior padding and cropping, as Pad."""

    def lower(self, ctx: Any, eqn: Any) -> None:
        lows, highs, _ = zip(*eqn.params["padding_config"], strict=True)
        operand, value = (ctx.get_value_for_var(atom) for atom in eqn.invars)
        pads = _constant(ctx, [*lows, *highs])
        _bind(ctx, eqn, ctx.builder.Pad(operand, pads, value, mode="constant", _outputs=[ctx.fresh_name("pad")]))


class _MaxPool:
    """A maximum over windows of the last axes as MaxPool."""

    def lower(self, ctx: Any, eqn: Any) -> None:
        options = _window(eqn)
        options["dilations"] = tuple(map(int, eqn.params["window_dilation"][2:]))
        operand = ctx.get_value_for_var(eqn.invars[0])
        _bind(ctx, eqn, ctx.builder.MaxPool(operand, _outputs=[ctx.fresh_name("max_pool")], **options))


class _SumPool:
    """A sum over windows of the last axes as AveragePool times the size of the window."""

    def lower(self, ctx: Any, eqn: Any) -> None:
        operand, options = ctx.get_value_for_var(eqn.invars[0]), _window(eqn)
        mean = ctx.builder.AveragePool(
            operand, _outputs=[ctx.fresh_name("average_pool")], count_include_pad=1, **options
        )
        _typed(mean, eqn)
        size = _constant(ctx, float(math.prod(options["kernel_shape"])), np.float32)
        _bind(ctx, eqn, ctx.builder.Mul(mean, size, _outputs=[ctx.fresh_name("sum_pool")]))


def lowerings() -> dict[str, Any]:
    """The ONNX lowerings by operation: objects with `lower(ctx, eqn)`, as `jax2onnx` expects."""
    return {"pad": _Pad(), "reduce_window_max": _MaxPool(), "reduce_window_sum": _SumPool()}


def _window(eqn: Any) -> dict[str, Any]:
    params = eqn.params
    lows, highs = zip(*params["padding"][2:], strict=True)
    return {
        "kernel_shape": tuple(map(int, params["window_dimensions"][2:])),
        "strides": tuple(map(int, params["window_strides"][2:])),
        "pads": tuple(map(int, (*lows, *highs))),
    }


def _constant(ctx: Any, value: Any, dtype: Any = np.int64) -> Any:
    return ctx.builder.add_initializer_from_array(name=ctx.fresh_name("constant"), array=np.asarray(value, dtype))


def _typed(value: Any, eqn: Any) -> None:
    import onnx_ir

    shape = eqn.outvars[0].aval.shape
    value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    value.shape = onnx_ir.Shape([str(size) if jax.export.is_symbolic_dim(size) else int(size) for size in shape])


def _bind(ctx: Any, eqn: Any, value: Any) -> None:
    _typed(value, eqn)
    ctx.bind_value_for_var(eqn.outvars[0], value)
