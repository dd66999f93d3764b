"""PyTorch's operations (ATen) in JAX, by name, written so that traced programs look like those of Flax.

Layer operations (`linear`, `layer_norm`, attention, pooling) stay whole, where PyTorch would decompose them. Other
operations are those of torchax. Arguments follow PyTorch's schemas; arrays are NCHW, float32 and int32.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from osp_jax.runtime.errors import InputError

OPERATIONS: dict[str, Callable[..., Any]] = {}
RANDOM: dict[str, Callable[..., Any]] = {}  # these take a key as their first argument


def _operation(*names: str, into: dict[str, Callable[..., Any]] = OPERATIONS) -> Callable[[Any], Any]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        into.update(dict.fromkeys((f"aten.{name}" for name in names), function))
        return function

    return register


_random = functools.partial(_operation, into=RANDOM)


def dtype_of(dtype: Any) -> np.dtype:
    """The JAX dtype for a PyTorch dtype: 32 bits instead of 64."""
    name = str(dtype).removeprefix("torch.")
    name = {"float64": "float32", "int64": "int32", "complex128": "complex64"}.get(name, name)
    return jnp.dtype(name)


# Element by element

_ELEMENTWISE = {
    "abs": jnp.abs,
    "acos": jnp.arccos,
    "asin": jnp.arcsin,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "bitwise_and": operator.and_,
    "bitwise_not": operator.invert,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "ceil": jnp.ceil,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "eq": operator.eq,
    "erf": lax.erf,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "ge": operator.ge,
    "gt": operator.gt,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "le": operator.le,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logical_and": jnp.logical_and,
    "logical_not": jnp.logical_not,
    "logical_or": jnp.logical_or,
    "lt": operator.lt,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "pow": lambda x, y: x**y,
    "reciprocal": jnp.reciprocal,
    "relu": lambda x: jnp.maximum(x, 0),
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "round": jnp.round,
    "rsqrt": lax.rsqrt,
    "sigmoid": lax.logistic,
    "sign": jnp.sign,
    "silu": lambda x: x * lax.logistic(x),
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "where": jnp.where,
    "hardsigmoid": lambda x: jnp.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * (jnp.clip(x + 3, 0, 6) / 6),
}
OPERATIONS.update({f"aten.{name}": function for name, function in _ELEMENTWISE.items()})


@_operation("add")
def _add(x: Any, y: Any, alpha: Any = 1) -> Any:
    return x + (y if alpha == 1 else alpha * y)


@_operation("sub")
def _sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return x - (y if alpha == 1 else alpha * y)


@_operation("rsub")
def _rsub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return _sub(y, x, alpha)


@_operation("div", "true_divide")
def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return x / y
    return x // y if rounding_mode == "floor" else jnp.trunc(x / y).astype(jnp.result_type(x, y))


@_operation("clamp", "clip", "hardtanh")
def _clamp(x: jax.Array, min: Any = None, max: Any = None) -> jax.Array:
    x = x if min is None else jnp.maximum(x, min)
    return x if max is None else jnp.minimum(x, max)


OPERATIONS["aten.hardtanh"] = lambda x, min_val=-1, max_val=1: _clamp(x, min_val, max_val)
OPERATIONS["aten.clamp_min"] = lambda x, least: jnp.maximum(x, least)
OPERATIONS["aten.clamp_max"] = lambda x, most: jnp.minimum(x, most)


@_operation("leaky_relu")
def _leaky_relu(x: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    return jnp.where(x > 0, x, negative_slope * x)


@_operation("elu")
def _elu(x: jax.Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> jax.Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.minimum(x, 0)))


@_operation("gelu")
def _gelu(x: jax.Array, approximate: str = "none") -> jax.Array:
    if approximate == "tanh":
        return x * (0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return x * (0.5 * (1 + lax.erf(x * math.sqrt(0.5))))


@_operation("masked_fill")
def _masked_fill(x: jax.Array, mask: jax.Array, value: Any) -> jax.Array:
    return jnp.where(mask, value, x)


@_operation("_to_copy")
def _to_copy(x: jax.Array, dtype: Any = None, **unused: Any) -> jax.Array:
    del unused
    return x if dtype is None else x.astype(dtype_of(dtype))


# Products


@_operation("linear")
def _linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    product = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return product if bias is None else product + bias


OPERATIONS.update(dict.fromkeys(("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot"), jnp.matmul))


@_operation("addmm", "baddbmm", "addmv")
def _addmm(x: jax.Array, first: jax.Array, second: jax.Array, beta: Any = 1, alpha: Any = 1) -> jax.Array:
    return _add(x if beta == 1 else beta * x, first @ second, alpha)


@_operation("einsum")
def _einsum(equation: str, operands: Sequence[jax.Array], path: Any = None) -> jax.Array:
    del path
    return jnp.einsum(equation, *operands)


@_operation("convolution")
def _convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> jax.Array:
    dimensions = weight.ndim - 2
    stride, padding, dilation, more = (
        tuple(values) * (dimensions if len(values) == 1 else 1)
        for values in (stride, padding, dilation, output_padding)
    )
    if transposed:
        into, out, *size = weight.shape  # out: per group
        weight = weight.reshape(groups, into // groups, out, *size).swapaxes(1, 2)
        weight = jnp.flip(weight.reshape(groups * out, into // groups, *size), range(2, 2 + dimensions))
        reach = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        sides = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
        window = {"window_strides": (1,) * dimensions, "lhs_dilation": stride}
    else:
        sides = [(p, p) for p in padding]
        window = {"window_strides": stride}
    letters = "DHW"[3 - dimensions :]
    layout = (f"NC{letters}", f"OI{letters}", f"NC{letters}")
    y = lax.conv_general_dilated(
        x, weight, padding=sides, rhs_dilation=dilation, dimension_numbers=layout, feature_group_count=groups, **window
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * dimensions)


@_operation("_softmax", "softmax")
def _softmax(x: jax.Array, dim: int, dtype: Any = None) -> jax.Array:
    del dtype
    return jax.nn.softmax(x, dim)


@_operation("_log_softmax", "log_softmax")
def _log_softmax(x: jax.Array, dim: int, dtype: Any = None) -> jax.Array:
    del dtype
    return jax.nn.log_softmax(x, dim)


@_operation("scaled_dot_product_attention")
def _attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    rng: jax.Array | None = None,
) -> jax.Array:
    if enable_gqa:
        key, value = (jnp.repeat(each, query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.swapaxes(-1, -2)
    if is_causal:
        attn_mask = np.tri(*scores.shape[-2:], dtype=bool)
    if attn_mask is not None:
        scores = jnp.where(attn_mask, scores, -jnp.inf) if attn_mask.dtype == bool else scores + attn_mask
    weights = jax.nn.softmax(scores, -1)
    return (weights if rng is None else _kept(rng, weights, dropout_p)) @ value


# Norms


def _scaled(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _channels(values: jax.Array | None, ndim: int) -> jax.Array | None:
    """Values by channel, shaped to combine with arrays `(n, c, ...)` of `ndim` axes."""
    return None if values is None else values.reshape(-1, *[1] * (ndim - 2))


def _centred(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x minus its mean, mean, variance), axes kept."""
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    return centred, mean, (centred * centred).mean(axes, keepdims=True)


def _normalised(x: jax.Array, axes: Sequence[int], eps: float) -> jax.Array:
    centred, _, variance = _centred(x, axes)
    return centred * lax.rsqrt(variance + eps)


@_operation("_native_batch_norm_legit_no_training")
def _batch_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    momentum: float,
    eps: float,
) -> tuple[jax.Array, None, None]:
    del momentum
    scale = lax.rsqrt(_channels(variance, x.ndim) + eps)
    scale = scale if weight is None else scale * _channels(weight, x.ndim)
    return _scaled(x - _channels(mean, x.ndim), scale, _channels(bias, x.ndim)), None, None


@_operation("_native_batch_norm_legit_functional")
def _train_batch_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, ...]:
    if not training:
        return *_batch_norm(x, weight, bias, mean, variance, momentum, eps), mean, variance
    axes = (0, *range(2, x.ndim))
    centred, found_mean, found_variance = _centred(x, axes)
    y = _scaled(centred * lax.rsqrt(found_variance + eps), _channels(weight, x.ndim), _channels(bias, x.ndim))
    count = x.size // x.shape[1]
    unbiased = found_variance.reshape(-1) * (count / (count - 1))
    mean = (1 - momentum) * mean + momentum * found_mean.reshape(-1)
    return y, None, None, mean, (1 - momentum) * variance + momentum * unbiased


@_operation("_native_batch_norm_legit.no_stats")
def _batch_norm_of_batch(
    x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, training: bool, momentum: float, eps: float
) -> tuple[jax.Array, None, None]:
    del training, momentum
    y = _normalised(x, (0, *range(2, x.ndim)), eps)
    return _scaled(y, _channels(weight, x.ndim), _channels(bias, x.ndim)), None, None


@_operation("native_layer_norm")
def _layer_norm(
    x: jax.Array, normalized_shape: Sequence[int], weight: jax.Array | None, bias: jax.Array | None, eps: float
) -> tuple[jax.Array, None, None]:
    return _scaled(_normalised(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias), None, None


@_operation("native_group_norm")
def _group_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    batch: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> tuple[jax.Array, None, None]:
    del batch, pixels
    grouped = x.reshape(x.shape[0], groups, channels // groups, *x.shape[2:])
    y = _normalised(grouped, tuple(range(2, grouped.ndim)), eps).reshape(x.shape)
    return _scaled(y, _channels(weight, x.ndim), _channels(bias, x.ndim)), None, None


# Pooling


def _each(values: Sequence[int] | int, dimensions: int) -> tuple[int, ...]:
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * dimensions if len(values) == 1 else values


def _windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> tuple[int, tuple[int, int]]:
    """(number of windows, padding on both sides) along an axis; with `ceil_mode`, the last may exceed the end."""
    reach = dilation * (kernel - 1) + 1
    free = size + 2 * padding - reach
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count, (padding, (count - 1) * stride + reach - size - padding)


def _pool(
    x: jax.Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, start: float, combine: Any
) -> tuple[jax.Array, list[tuple[int, ...]]]:
    """The windows of the last axes combined, and (size, count, kernel, stride, padding) of each of these axes."""
    dimensions = len(kernel)
    stride = _each(stride or kernel, dimensions)
    padding, dilation = _each(padding, dimensions), _each(dilation, dimensions)
    axes, sides = [], [(0, 0)] * (x.ndim - dimensions)
    for size, k, s, p, d in zip(x.shape[-dimensions:], kernel, stride, padding, dilation, strict=True):
        count, side = _windows(size, k, s, p, d, ceil_mode)
        axes.append((size, count, k, s, p))
        sides.append(side)
    others = (1,) * (x.ndim - dimensions)
    y = lax.reduce_window(
        x, start, combine, (*others, *kernel), (*others, *stride), sides, window_dilation=(*others, *dilation)
    )
    return y, axes


@_operation("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(
    x: jax.Array, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> jax.Array:
    return _pool(x, kernel_size, stride, padding, dilation, ceil_mode, -jnp.inf, lax.max)[0]


@_operation("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    dimensions = len(kernel_size)
    covered = tuple(x.shape[-dimensions:]) == tuple(kernel_size) and not any(_each(padding, dimensions))
    if covered and divisor_override is None:
        return x.mean(tuple(range(-dimensions, 0)), keepdims=True)
    total, axes = _pool(x, kernel_size, stride, padding, 1, ceil_mode, 0.0, lax.add)
    if divisor_override:
        return total / divisor_override
    divisor = np.ones(())
    for size, count, k, s, p in axes:
        start = np.arange(count) * s - p
        end = np.minimum(start + k, size + p)
        values = end - start if count_include_pad else np.minimum(end, size) - np.maximum(start, 0)
        divisor = divisor[..., None] * values
    divisor = divisor.astype(np.float32)
    return total / (float(divisor.flat[0]) if (divisor == divisor.flat[0]).all() else divisor)


def _adaptive_pool(x: jax.Array, output_size: Sequence[int], combine: Callable[..., jax.Array]) -> jax.Array:
    """`combine(x, axis, keepdims=True)` over almost equal parts, `output_size` of them along each axis."""
    first = x.ndim - len(output_size)
    if all(count == 1 for count in output_size):
        return combine(x, tuple(range(first, x.ndim)), keepdims=True)
    for axis, count in enumerate(output_size, first):
        size = x.shape[axis]
        if count == size:
            continue
        bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        parts = [combine(lax.slice_in_dim(x, a, b, axis=axis), axis, keepdims=True) for a, b in bounds]
        x = jnp.concatenate(parts, axis)
    return x


@_operation("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg_pool(x: jax.Array, output_size: Sequence[int]) -> jax.Array:
    return _adaptive_pool(x, output_size, jnp.mean)


@_operation("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(x: jax.Array, output_size: Sequence[int]) -> tuple[jax.Array, None]:
    return _adaptive_pool(x, output_size, jnp.max), None


def _resized(x: jax.Array, size: Sequence[int], align_corners: bool, method: str) -> jax.Array:
    """Images resized with a filter that widens when they shrink."""
    if align_corners:
        raise InputError(
            "interpolate with antialias and align_corners cannot be brought to JAX; leave align_corners away"
        )
    return jax.image.resize(x, (*x.shape[:2], *size), method, antialias=True)


@_operation("_upsample_bilinear2d_aa")
def _upsample_linear(x: jax.Array, size: Sequence[int], align_corners: bool, *scales: Any) -> jax.Array:
    del scales
    return _resized(x, size, align_corners, "linear")


@_operation("_upsample_bicubic2d_aa")
def _upsample_cubic(x: jax.Array, size: Sequence[int], align_corners: bool, *scales: Any) -> jax.Array:
    del scales
    return _resized(x, size, align_corners, "cubic")


# Reductions


@_operation("mean")
def _mean(x: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    del dtype
    return x.mean(_axes(dim), keepdims=keepdim)


@_operation("sum")
def _sum(x: jax.Array, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    return x.sum(_axes(dim), keepdims=keepdim, dtype=None if dtype is None else dtype_of(dtype))


@_operation("linalg_vector_norm")
def _vector_norm(x: jax.Array, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    del dtype
    if ord == 2:
        return jnp.sqrt((x * x).sum(_axes(dim), keepdims=keepdim))
    if ord in (1, math.inf):
        return (jnp.sum if ord == 1 else jnp.max)(jnp.abs(x), _axes(dim), keepdims=keepdim)
    return (jnp.abs(x) ** ord).sum(_axes(dim), keepdims=keepdim) ** (1 / ord)


@_operation("amax")
def _amax(x: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    return x.max(_axes(dim), keepdims=keepdim)


@_operation("amin")
def _amin(x: jax.Array, dim: Any = (), keepdim: bool = False) -> jax.Array:
    return x.min(_axes(dim), keepdims=keepdim)


@_operation("var")
def _var(x: jax.Array, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False) -> jax.Array:
    return x.var(_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def _axes(dim: Any) -> tuple[int, ...] | None:
    if isinstance(dim, int):
        return (dim,)
    return tuple(dim) if dim else None


# Shapes


@_operation("view", "_unsafe_view", "reshape")
def _view(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    return x.reshape(tuple(shape))


@_operation("sym_size")
def _size(x: jax.Array, dim: int) -> int:
    return x.shape[dim]


OPERATIONS["aten.permute"] = lambda x, dims: jnp.transpose(x, dims)
OPERATIONS["aten.transpose"] = lambda x, first, second: jnp.swapaxes(x, first, second)
OPERATIONS["aten.t"] = jnp.transpose
OPERATIONS["aten.flip"] = jnp.flip
OPERATIONS["aten.repeat"] = lambda x, repeats: jnp.tile(x, repeats)
OPERATIONS["aten.cat"] = lambda parts, dim=0: jnp.concatenate([part for part in parts if part.shape != (0,)], dim)
OPERATIONS["aten.stack"] = lambda parts, dim=0: jnp.stack(parts, dim)
for _name in ("clone", "alias", "detach", "contiguous", "lift_fresh_copy"):
    OPERATIONS[f"aten.{_name}"] = lambda x, **unused: x


@_operation("unsqueeze")
def _unsqueeze(x: jax.Array, dim: int) -> jax.Array:
    return jnp.expand_dims(x, dim)


@_operation("squeeze")
def _squeeze(x: jax.Array, dim: Any = None) -> jax.Array:
    axes = range(x.ndim) if dim is None else [axis % max(x.ndim, 1) for axis in _axes(dim) or ()]
    return x.squeeze(tuple(axis for axis in axes if x.ndim and x.shape[axis] == 1))


@_operation("expand")
def _expand(x: jax.Array, size: Sequence[int], implicit: bool = False) -> jax.Array:
    del implicit
    own = (1,) * (len(size) - x.ndim) + x.shape
    return jnp.broadcast_to(
        x, tuple(b if isinstance(a, int) and a == -1 else a for a, b in zip(size, own, strict=True))
    )


@_operation("select")
def _select(x: jax.Array, dim: int, index: int) -> jax.Array:
    return lax.index_in_dim(x, index, dim, keepdims=False)


@_operation("slice")
def _slice(x: jax.Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> jax.Array:
    start, end = _bounds(x.shape[dim], start, end)
    if start is None and end is None:
        return x if step == 1 else x[_at(x, dim, slice(None, None, step))]
    return lax.slice_in_dim(x, start or 0, x.shape[dim] if end is None else end, step, dim)


@_operation("slice_scatter")
def _slice_scatter(
    x: jax.Array, new: jax.Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> jax.Array:
    """`x` with `new` instead of a slice."""
    start, end = _bounds(x.shape[dim], start, end)
    if step != 1:
        return x.at[_at(x, dim, slice(start, end, step))].set(new)
    if start is None and end is None:
        return new
    end = x.shape[dim] if end is None else end
    parts = (lax.slice_in_dim(x, 0, start or 0, axis=dim), new, lax.slice_in_dim(x, end, None, axis=dim))
    return jnp.concatenate(parts, dim)


@_operation("select_scatter")
def _select_scatter(x: jax.Array, new: jax.Array, dim: int, index: int) -> jax.Array:
    index = index % x.shape[dim]
    return _slice_scatter(x, jnp.expand_dims(new, dim), dim, index, index + 1)


@_operation("copy")
def _copy(x: jax.Array, new: jax.Array, non_blocking: bool = False) -> jax.Array:
    """The result of an elementwise assignment of `new` to `x`."""
    del non_blocking
    return jnp.broadcast_to(new, x.shape).astype(x.dtype)


def _at(x: jax.Array, dim: int, index: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % x.ndim) + (index,)


def _bounds(size: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Start and end of a slice as numbers from 0, or None at the bounds of the axis."""
    if isinstance(size, int):
        start, end, _ = slice(start, end).indices(size)
        end = max(start, end)
    elif isinstance(end, int) and end >= 2**31 - 1:  # a symbolic size, when a program is exported
        end = None
    return (None if isinstance(start, int) and start == 0 else start), (None if end is size or end == size else end)


@_operation("split_with_sizes")
def _split(x: jax.Array, sizes: Sequence[int], dim: int = 0) -> list[jax.Array]:
    ends = np.cumsum(sizes)
    return [lax.slice_in_dim(x, int(end - size), int(end), axis=dim) for size, end in zip(sizes, ends, strict=True)]


@_operation("roll")
def _roll(x: jax.Array, shifts: Sequence[int], dims: Sequence[int] = ()) -> jax.Array:
    return jnp.roll(x, shifts, dims) if dims else jnp.roll(x, shifts)


@_operation("constant_pad_nd")
def _pad(x: jax.Array, pad: Sequence[int], value: Any = 0) -> jax.Array:
    sides = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[-2::-2], pad[::-2], strict=True))
    return lax.pad(x, jnp.asarray(value, x.dtype), [(before, after, 0) for before, after in sides])


@_operation("index", "_unsafe_index")
def _index(x: jax.Array, indices: Sequence[Any]) -> jax.Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


@_operation("index_select")
def _index_select(x: jax.Array, dim: int, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, dim)


# Numbers, including sizes, which are symbolic in exported programs


@_operation("_local_scalar_dense", "item")
def _number(x: jax.Array) -> jax.Array:
    return x.reshape(())


def _quotient(x: Any, y: Any) -> Any:
    """A quotient of sizes; an integer one if they are symbolic."""
    return x / y if isinstance(x, int | float | jax.Array) else x // int(y)


def _whole(x: Any) -> Any:
    return math.trunc(x) if isinstance(x, int | float) else x


SIZES: dict[str, Callable[..., Any]] = {"truediv": _quotient, "trunc": _whole, "sym_float": lambda x: x}


# New arrays


@_operation("full")
def _full(size: Sequence[int], value: Any, dtype: Any = None, **unused: Any) -> jax.Array:
    del unused
    return jnp.full(tuple(size), value, dtype and dtype_of(dtype))


OPERATIONS["aten.zeros"] = OPERATIONS["aten.empty"] = lambda size, **given: _full(size, 0.0, **given)
OPERATIONS["aten.ones"] = lambda size, **given: _full(size, 1.0, **given)
OPERATIONS["aten.scalar_tensor"] = lambda value, **given: _full((), value, **given)


@_operation("full_like")
def _full_like(x: jax.Array, value: Any, dtype: Any = None, **unused: Any) -> jax.Array:
    del unused
    return jnp.full(x.shape, value, dtype_of(dtype or x.dtype))


OPERATIONS["aten.zeros_like"] = OPERATIONS["aten.empty_like"] = lambda x, **given: _full_like(x, 0, **given)
OPERATIONS["aten.ones_like"] = lambda x, **given: _full_like(x, 1, **given)


@_operation("arange")
def _arange(*bounds: Any, dtype: Any = None, **unused: Any) -> jax.Array:
    del unused
    return jnp.arange(*bounds, dtype=dtype and dtype_of(dtype))


# Random numbers


def _kept(key: jax.Array, x: jax.Array, p: float) -> jax.Array:
    """`x` with a share `p` of its entries dropped, and the others scaled to keep the mean."""
    return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0) if p < 1 else jnp.zeros_like(x)


@_random("native_dropout")
def _dropout(key: jax.Array, x: jax.Array, p: float, train: bool | None = True) -> tuple[jax.Array, None]:
    return (_kept(key, x, p) if train is not False and p > 0 else x), None


@_random("scaled_dot_product_attention")
def _attention_with_dropout(rng: jax.Array, *arguments: Any, **keywords: Any) -> jax.Array:
    return _attention(*arguments, **keywords, rng=rng)


@_random("bernoulli")
def _bernoulli(key: jax.Array, x: jax.Array, p: Any = None) -> jax.Array:
    return jax.random.bernoulli(key, x if p is None else p, x.shape).astype(x.dtype)


@_random("rand")
def _rand(key: jax.Array, size: Sequence[int], **unused: Any) -> jax.Array:
    del unused
    return jax.random.uniform(key, tuple(size))


@_random("randn")
def _randn(key: jax.Array, size: Sequence[int], **unused: Any) -> jax.Array:
    del unused
    return jax.random.normal(key, tuple(size))


RANDOM["aten.rand_like"] = lambda key, x, **unused: jax.random.uniform(key, x.shape)
RANDOM["aten.randn_like"] = lambda key, x, **unused: jax.random.normal(key, x.shape)
