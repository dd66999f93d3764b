"""Kernel gradients of 3x3 convolutions: XLA's own against the sum over blocks of patches, side by side.

python -m benchmarks.convolution [--json=FILE]
"""

import statistics
from typing import Any

import jax

from benchmarks import cli
from osp_jax.models.convolution import blocked_kernel_gradient

_SHAPES = [(32, 16, 16), (16, 32, 32), (8, 64, 64), (32, 32, 32), (32, 64, 64), (8, 128, 128), (4, 256, 256)]


def main() -> None:
    flags = cli.parser(__doc__).parse_args()
    rows = []
    for size, channels, filters in _SHAPES:
        images = jax.random.normal(jax.random.key(0), (128, size, size, channels))
        gradient = jax.random.normal(jax.random.key(1), (128, size, size, filters))
        shape = (3, 3, channels, filters)

        def by_xla(x: jax.Array, g: jax.Array, shape=shape) -> jax.Array:
            kernel = jax.numpy.zeros(shape)
            numbers = ("NHWC", "HWIO", "NHWC")

            def convolve(k: jax.Array) -> jax.Array:
                return jax.lax.conv_general_dilated(x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)

            return jax.vjp(convolve, kernel)[1](g)[0]

        def by_blocks(x: jax.Array, g: jax.Array, shape=shape) -> jax.Array:
            return blocked_kernel_gradient(x, g, shape, (1, 1), ((1, 1), (1, 1)))

        def median(gradient_of: Any, arrays: tuple = (images, gradient)) -> float:
            jitted = jax.jit(gradient_of)
            return statistics.median(cli.seconds_per_call(lambda: jitted(*arrays), 9))

        xla, blocks = median(by_xla), median(by_blocks)
        row = {"map": f"{size}x{size}", "in": channels, "out": filters}
        rows.append(row | {"xla ms": 1e3 * xla, "blocks ms": 1e3 * blocks, "xla / blocks": xla / blocks})
    cli.report(rows, flags.json)


if __name__ == "__main__":
    main()
