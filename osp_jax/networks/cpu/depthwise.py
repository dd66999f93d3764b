"""Depthwise convolutions on CPUs as sums of shifted products, which are many times faster than XLA's.

Programs are rewritten when they run (`fast_depthwise`, `with_shifts`): a depthwise convolution becomes the sum over its
kernel positions of the shifted inputs times one weight per channel. Values and gradients agree to float32 rounding
(`benchmarks/depthwise.py` has the times). Code that analyses or exports a program traces it within
`plain_convolutions`, where the convolutions are kept.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from osp_jax.runtime.distributed import on_cpu, on_one_device

# Positions of the largest kernel that is rewritten, 7x7: each adds to XLA's compilation time.
_MOST_PLACES = 49

# Whether programs keep their convolutions. JAX includes it in the key of its cache of traced programs.
_keeps = jax.make_user_context(False)


def plain_convolutions() -> Any:
    """In this context, programs are traced with their convolutions unchanged, on any device."""
    return _keeps(True)


def fast_depthwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function or method `(network, *args)`: on a CPU, its depthwise convolutions become shifted products.

    Args:
      function: traceable; its arguments, except the first, and its result are pytrees of arrays.
    """

    @wraps(function)
    def run(network: Any, *args: Any) -> Any:
        if not _rewrites():
            return function(network, *args)
        program, shapes = jax.make_jaxpr(partial(function, network), return_shape=True)(*args)
        outputs = jaxpr_as_fun(with_shifts(program))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def with_shifts(program: ClosedJaxpr) -> ClosedJaxpr:
    """Returns the program with its depthwise convolutions replaced by sums of shifted products, on a CPU.

    It has as many equations as before, with the same operands and results. Calls, loops and branches are rewritten,
    too.
    """
    return _rewritten(program) if _rewrites() else program


def _rewrites() -> bool:
    return on_cpu() and on_one_device() and not _keeps.value


def _rewritten(jaxpr: Any) -> Any:
    """Rewrites a jaxpr, closed or open; returns the same object if nothing changes, so that copies stay shared."""
    if hasattr(jaxpr, "consts"):
        inner = _rewritten(jaxpr.jaxpr)
        return jaxpr if inner is jaxpr.jaxpr else jaxpr.replace(jaxpr=inner)
    equations = [
        _shifts(equation) if is_depthwise(equation) else _rewritten_within(equation) for equation in jaxpr.eqns
    ]
    return jaxpr if _same(equations, jaxpr.eqns) else jaxpr.replace(eqns=equations)


def _rewritten_within(equation: JaxprEqn) -> JaxprEqn:
    params = {key: _each_rewritten(value) for key, value in equation.params.items()}
    return equation if _same(params.values(), equation.params.values()) else equation.replace(params=params)


def _each_rewritten(value: Any) -> Any:
    """Rewrites a parameter of an equation that is a jaxpr, or several in a branch; returns anything else unchanged."""
    if hasattr(value, "eqns"):
        return _rewritten(value)
    if isinstance(value, tuple) and value and all(hasattr(each, "eqns") for each in value):
        new = tuple(map(_rewritten, value))
        return value if _same(new, value) else new
    return value


def _same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(new, old, strict=True))


def _shifts(equation: JaxprEqn) -> JaxprEqn:
    names = ("dimension_numbers", "window_strides", "padding", "rhs_dilation")
    function = jax.jit(partial(convolve, **{name: equation.params[name] for name in names}))
    (made,) = jax.make_jaxpr(function)(*[atom.aval for atom in equation.invars]).jaxpr.eqns
    return made.replace(invars=equation.invars, outvars=equation.outvars, source_info=equation.source_info)


def is_depthwise(equation: JaxprEqn) -> bool:
    """Whether an equation is a float32 convolution with one kernel per channel, of at most 7x7 positions."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    params, axes = equation.params, equation.params["dimension_numbers"]
    inputs, kernel, outputs = (atom.aval for atom in (*equation.invars, *equation.outvars))
    channels = inputs.shape[axes.lhs_spec[1]]
    return (
        params["feature_group_count"] == channels == kernel.shape[axes.rhs_spec[0]]
        and params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) <= {1}
        and axes.out_spec == axes.lhs_spec
        and kernel.size <= _MOST_PLACES * channels
        and inputs.dtype == kernel.dtype == outputs.dtype == jnp.float32
    )


def convolve(
    inputs: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: lax.ConvDimensionNumbers,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int],
) -> jax.Array:
    """`lax.conv_general_dilated` of each channel separately, image by image, as a sum of shifted products.

    In a loop over images, XLA fuses the products and keeps the rest in the cache, in both passes; for all images at
    once it would store a copy per kernel position.

    Args:
      inputs, kernel: float, with axes as in `dimension_numbers`; the kernel has 1 input channel and one output per
        channel.
      window_strides, padding, rhs_dilation: one per spatial axis.
    """
    batch, channel, *spatial = dimension_numbers.lhs_spec
    out, one, *axes = dimension_numbers.rhs_spec
    sizes = [kernel.shape[axis] for axis in axes]
    weights = kernel.transpose(*axes, one, out).reshape(*sizes, -1)
    sides = dict(zip(spatial, padding, strict=True))

    # The gradient keeps the image, and not a copy per kernel position.
    @partial(jax.checkpoint, prevent_cse=False)
    def of_image(image: jax.Array, weights: jax.Array) -> jax.Array:
        image = jnp.expand_dims(image, batch)
        image = lax.pad(image, np.float32(0), [(*sides.get(axis, (0, 0)), 0) for axis in range(image.ndim)])

        def product(place: tuple[int, ...]) -> jax.Array:
            read = image
            for axis, at, size, dilation, stride in zip(
                spatial, place, sizes, rhs_dilation, window_strides, strict=True
            ):
                end = image.shape[axis] - dilation * (size - 1 - at)
                read = lax.slice_in_dim(read, dilation * at, end, stride, axis)
            return read * lax.expand_dims(weights[place], [axis for axis in range(image.ndim) if axis != channel])

        places = itertools.product(*map(range, sizes))
        return functools.reduce(jnp.add, map(product, places)).squeeze(batch)

    outputs = lax.map(lambda image: of_image(image, weights), jnp.moveaxis(inputs, batch, 0))
    return jnp.moveaxis(outputs, 0, batch)
