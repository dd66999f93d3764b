"""3x3 convolutions, forward and backward: XLA's against those of `osp_jax.networks.cpu.convolution`.

python -m benchmarks.convolution [--json=FILE]
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cli
from osp_jax.networks.cpu.convolution import conv_general_dilated

_SHAPES = [
    (32, 16, 16),
    (16, 32, 32),
    (8, 64, 64),
    (32, 24, 32),
    (32, 32, 32),
    (32, 64, 64),
    (16, 128, 128),
    (8, 256, 256),
    (4, 512, 512),
]
_BATCH = 128


def main() -> None:
    flags = cli.parser(__doc__).parse_args()
    rows = []
    for size, channels, filters in _SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        images = jax.random.normal(keys[0], (_BATCH, size, size, channels))
        kernel = jax.random.normal(keys[1], (3, 3, channels, filters)) / (9 * channels) ** 0.5
        gradient = jax.random.normal(keys[2], (_BATCH, size, size, filters))
        row = {"map": f"{size}x{size}", "in": channels, "out": filters}
        for name, convolve in (("xla", _by_xla), ("ours", _by_ours)):
            passes = _passes(convolve, kernel)
            for what, given in (("forward", (images,)), ("input", (images, gradient)), ("kernel", (images, gradient))):
                row[f"{what} {name} ms"] = 1e3 * _median(passes[what], given)
        for what in ("forward", "input", "kernel"):
            row[f"{what} xla / ours"] = row[f"{what} xla ms"] / row[f"{what} ours ms"]
        rows.append(row)
    cli.report(rows, flags.json)


def _by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)))


def _passes(convolve: Callable[[jax.Array, jax.Array], jax.Array], kernel: jax.Array) -> dict[str, Any]:
    """The output, and separately the gradients with respect to input and kernel."""
    return {
        "forward": lambda x: convolve(x, kernel),
        "input": lambda x, g: jax.vjp(lambda x: convolve(x, kernel), x)[1](g)[0],
        "kernel": lambda x, g: jax.vjp(lambda k: convolve(x, k), jnp.zeros_like(kernel))[1](g)[0],
    }


def _median(function: Any, arrays: tuple[jax.Array, ...]) -> float:
    jitted = jax.jit(function)
    return statistics.median(cli.seconds_per_call(lambda: jitted(*arrays), 9))


if __name__ == "__main__":
    cli.run(main)
