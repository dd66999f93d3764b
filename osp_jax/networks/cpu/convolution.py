"""A 2-D convolution with fast forward and backward passes on CPUs.

XLA's kernel gradient on CPUs is slow on wide maps, by a factor that depends on the machine. The same sum, computed as
one matrix product per kernel position over blocks of images that fit the cache, is up to several times faster, except
for very few channels. 3x3 kernels between many channels use Winograd's algorithm, which nearly halves the time of all
three passes (`benchmarks/convolution.py`). Values agree to float32 rounding; everything else is XLA's.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from osp_jax.networks.cpu import winograd
from osp_jax.runtime.distributed import on_cpu, on_one_device

# Output positions per block: half a megabyte for 128 channels.
_BLOCK = 1024

# The fewest input and output channels for Winograd's algorithm; with fewer, its matrices are too small.
_CHANNELS = 24

# Output positions per block if all kernel positions share one product.
_SHARED_BLOCK = 4096


def conv_general_dilated(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: Any,
    *,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`lax.conv_general_dilated`, for `nn.Conv(conv_general_dilated=...)`; NHWC inputs, HWIO kernel.

    On a CPU, a plain two-dimensional convolution computes its kernel gradient in blocks, or entirely by Winograd's
    algorithm. All others, on any device, are XLA's, including convolutions of images that are split over devices, whose
    blocks would have to be gathered.
    """
    plain = (
        inputs.ndim == 4
        and feature_group_count == 1
        and not isinstance(padding, str)
        and set(lhs_dilation or (1,)) | set(rhs_dilation or (1,)) == {1}
    )
    if plain and on_cpu() and on_one_device():
        return _conv(inputs, kernel, tuple(strides), tuple(map(tuple, padding)), precision)
    return lax.conv_general_dilated(
        inputs,
        kernel,
        strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def _xla_conv(inputs, kernel, strides, padding, precision):
    return lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(inputs, kernel, strides, padding, precision):
    if _many_channels(inputs, kernel, strides, padding, precision):
        return winograd.convolve(inputs, kernel)
    return _xla_conv(inputs, kernel, strides, padding, precision)


def _conv_forward(inputs, kernel, strides, padding, precision):
    return _conv(inputs, kernel, strides, padding, precision), (inputs, kernel)


def _conv_backward(strides, padding, precision, residuals, gradient):
    inputs, kernel = residuals
    if _many_channels(inputs, kernel, strides, padding, precision):
        # The gradient of a convolution is a convolution with the rotated kernel, with inputs and outputs exchanged.
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        return winograd.convolve(gradient, turned), winograd.kernel_gradient(inputs, gradient)
    _, input_vjp = jax.vjp(lambda x: _xla_conv(x, kernel, strides, padding, precision), inputs)
    kernel_gradient = blocked_kernel_gradient(inputs, gradient, kernel.shape, strides, padding, precision)
    return *input_vjp(gradient), kernel_gradient.astype(kernel.dtype)


def _many_channels(inputs, kernel, strides, padding, precision) -> bool:
    """Whether Winograd's algorithm supports the convolution and is faster (`results/convolution_cpu.json`)."""
    even = not (inputs.shape[1] % 2 or inputs.shape[2] % 2)
    usual = kernel.shape[:2] == (3, 3) and strides == (1, 1) and padding == ((1, 1), (1, 1)) and precision is None
    return even and usual and inputs.dtype == kernel.dtype == jnp.float32 and min(kernel.shape[2:]) >= _CHANNELS


_conv.defvjp(_conv_forward, _conv_backward)


def blocked_kernel_gradient(
    inputs: jax.Array,
    gradient: jax.Array,
    kernel_shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    precision: Any = None,
) -> jax.Array:
    """Gradient of a convolution with respect to its kernel: sums over blocks of inputs^T @ gradient.

    It is one product per kernel position or, for few channels, one for all positions side by side.

    Args:
      inputs: `(batch, height, width, in)`.
      gradient: with respect to the output, `(batch, out_height, out_width, out)`.
      kernel_shape: (k_h, k_w, in, out).

    Returns:
      float32, of `kernel_shape`.
    """
    k_h, k_w, channels, filters = kernel_shape
    _, out_h, out_w, _ = gradient.shape
    few = channels < _CHANNELS

    def shifted(x: jax.Array) -> list[jax.Array]:  # b h w c -> per kernel position, (b oh ow) c
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        rows = [slice(i, i + strides[0] * (out_h - 1) + 1, strides[0]) for i in range(k_h)]
        columns = [slice(j, j + strides[1] * (out_w - 1) + 1, strides[1]) for j in range(k_w)]
        places = [x[:, r, c].reshape(-1, channels) for r in rows for c in columns]
        return [jnp.concatenate(places, -1)] if few else places

    def add_block(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = block
        product = partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)
        products = jnp.stack([product(read.T, g.reshape(-1, filters)) for read in shifted(x)])
        return total + products.reshape(kernel_shape), None

    size = _SHARED_BLOCK if few else _BLOCK
    blocks = jax.tree.map(lambda a: winograd.blocks(a, out_h * out_w, size), (inputs, gradient))
    total, _ = lax.scan(add_block, jnp.zeros(kernel_shape, jnp.float32), blocks)
    return total
