"""Convolutions with 3x3 kernels as sixteen matrix products over tiles: F(2x2, 3x3) of Lavin and Gray (2016, arXiv
1509.09308).

The four outputs of a tile take 16 products instead of 36, plus sums of the inputs and outputs; with many channels the
products dominate. Rounding errors are a few times those of a direct float32 convolution.

Blocks of images that fit the cache are processed one after another.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Output positions per block.
_BLOCK = 4096


def convolve(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves `(batch, h, w, in)` with `(3, 3, in, out)` to `(batch, h, w, out)`; stride 1, one pixel of zero
    padding, h and w even."""
    _, height, width, _ = inputs.shape
    weights = _kernel_tiles(kernel)

    def block(x: jax.Array) -> jax.Array:
        tiles = _input_tiles(x)
        products = [[tiles[i][j] @ weights[i][j] for j in range(4)] for i in range(4)]
        outputs = _both_axes(_gather, products)  # 2 by 2, each (tiles) out
        rows = [jnp.stack([y.reshape(-1, height // 2, width // 2, y.shape[-1]) for y in row], 3) for row in outputs]
        return jnp.stack(rows, 2).reshape(len(x), height, width, -1)  # b h2 2 w2 2 out

    found = lax.map(block, blocks(inputs, height * width, _BLOCK))
    return found.reshape(*inputs.shape[:-1], kernel.shape[-1])


def kernel_gradient(inputs: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient of `convolve` by the kernel, `(3, 3, in, out)`; `gradient` `(batch, h, w, out)` by the output."""
    _, height, width, _ = inputs.shape

    def add(total: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = given
        quarters = [[g[:, i::2, j::2].reshape(-1, g.shape[-1]) for j in range(2)] for i in range(2)]
        spread, tiles = _both_axes(_scatter, quarters), _input_tiles(x)
        return total + jnp.stack([tiles[i][j].T @ spread[i][j] for i in range(4) for j in range(4)]), None

    start = jnp.zeros((16, inputs.shape[-1], gradient.shape[-1]), inputs.dtype)
    total, _ = lax.scan(add, start, jax.tree.map(lambda a: blocks(a, height * width, _BLOCK), (inputs, gradient)))
    found = _both_axes(_kernel_sums, [list(total[4 * i : 4 * i + 4]) for i in range(4)])
    return jnp.stack([jnp.stack(row) for row in found])


def blocks(x: jax.Array, positions: int, most: int) -> jax.Array:
    """`(batch, ...)` -> `(blocks, images, ...)`: the most images per block, at least one, that divide the batch and
    have at most `most` positions, at `positions` each."""
    batch = len(x)
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, most // positions))
    return x.reshape(-1, images, *x.shape[1:])


def _input_tiles(x: jax.Array) -> list[list[jax.Array]]:
    """4 by 4 matrices `(tiles, in)` of transformed 4x4 tiles, two pixels apart."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pixels = [
        [lax.slice(x, (0, i, j, 0), (batch, i + height - 1, j + width - 1, channels), (1, 2, 2, 1)) for j in range(4)]
        for i in range(4)
    ]
    return [[tile.reshape(-1, channels) for tile in row] for row in _both_axes(_differences, pixels)]


def _kernel_tiles(kernel: jax.Array) -> list[list[jax.Array]]:
    return _both_axes(_kernel_means, [[kernel[i, j] for j in range(3)] for i in range(3)])


def _both_axes(change, grid: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """Applies `change`, a linear map of lists, along the rows and the columns of a grid."""
    columns = [change(column) for column in zip(*grid, strict=True)]
    return [change(row) for row in zip(*columns, strict=True)]


# The matrices of the paper's equation 15: B^T, G, A^T; and A, G^T for the gradient.


def _differences(d: Sequence[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel_means(g: Sequence[jax.Array]) -> list[jax.Array]:
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _gather(m: Sequence[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _scatter(y: Sequence[jax.Array]) -> list[jax.Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _kernel_sums(u: Sequence[jax.Array]) -> list[jax.Array]:
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]
