"""Growth of cost: the request with classes, channels and parameters; statistics with images and devices.

python -m benchmarks.scaling [--plot=FILE.svg] [--json=FILE]

Each cost is measured over a range of one quantity, with the others fixed, and fitted by a power of it (least squares of
the logarithms, over the upper half of the range, where fixed costs matter least). On a CPU, several devices are created
by XLA_FLAGS=--xla_force_host_platform_device_count=N; they share its cores.
"""

import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import cli
from benchmarks.latency import random_statistics
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.methods.osp import Osp
from osp_jax.model import Model
from osp_jax.networks import count_parameters
from osp_jax.program.gates import Gates, gates_of, noise_images
from osp_jax.runtime.arguments import path, whole
from osp_jax.runtime.distributed import make_mesh, using
from osp_jax.statistics import collect_statistics

_SHAPE = (32, 32, 3)
_WIDTHS = (8, 16, 32, 64, 128)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--plot", type=path("file"), default=None, metavar="FILE", help="also draw the fits there")
    arguments.add_argument("--calls", type=whole(1, 1000000), default=100)
    flags = arguments.parse_args()
    devices = [n for n in (1, 2, 4, 8, 16) if n <= jax.device_count()]
    curves = {
        ("request", "classes"): [(n, request(flags.calls, classes=n)) for n in (10, 30, 100, 300, 1000)],
        ("request", "channels"): [(channels(w), request(flags.calls, width=w)) for w in _WIDTHS],
        ("request, weights erased", "parameters"): [
            (parameters(w), request(flags.calls, width=w, erase=True)) for w in _WIDTHS
        ],
        ("statistics", "images"): [(n, collection(n)) for n in (128, 256, 512, 1024, 2048)],
        ("statistics", "devices"): [(n, collection(512, devices=n)) for n in devices],
    }
    rows = []
    for (cost, against), points in curves.items():
        sizes, seconds = zip(*points, strict=True)
        rows.append(
            {
                "cost": cost,
                "against": against,
                "from": sizes[0],
                "to": sizes[-1],
                "first ms": 1e3 * seconds[0],
                "last ms": 1e3 * seconds[-1],
                "exponent": exponent(sizes, seconds) if len(sizes) > 2 else None,
            }
        )
    cli.report(rows, flags.json)
    if flags.plot:
        plot(curves, flags.plot)


def exponent(sizes: tuple[int, ...], seconds: tuple[float, ...]) -> float:
    upper = slice(len(sizes) // 2, None)
    return float(np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0])


def network(classes: int, width: int) -> Model:
    return cli.random_model("resnet8", classes, _SHAPE, width=width)


def parameters(width: int) -> int:
    return count_parameters(network(10, width).variables)


def channels(width: int) -> int:
    return sum(group.channels for group in gates(network(10, width)).groups)


def gates(model: Model) -> Gates:
    return gates_of(model.apply, model.variables, noise_images(_SHAPE))


def request(calls: int, *, classes: int = 10, width: int = 16, erase: bool = False) -> float:
    """Median seconds from class numbers to parameters, with every layer masked and statistics in memory."""
    model, method = network(classes, width), Osp(layers="all", erase=erase)
    found = random_statistics(gates(model), classes, jax.random.key(1))
    given, forget = {"data": None, "statistics": found}, iter(range(10**9))

    def call() -> Any:
        return method.unlearn(model, (next(forget) % classes,), **given, rng=jax.random.key(0)).variables

    return statistics.median(cli.seconds_per_call(call, calls))


def collection(images: int, *, devices: int = 1) -> float:
    """Median seconds of one pass for class statistics."""
    split = Split(*cli.random_images(images, _SHAPE[0], 10))
    model = network(10, 16)

    def call() -> Any:
        return collect_statistics(model, index_batches(split, np.arange(images), 128)).layers

    with using(make_mesh(devices=jax.devices()[:devices])):
        return statistics.median(cli.seconds_per_call(call, 5))


def plot(curves: dict[tuple[str, str], list[tuple[int, float]]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, ((cost, against), points) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axes.loglog(sizes, [1e3 * s for s in seconds], "o-", color="tab:blue", markersize=4)
        title = f"{cost}\nexponent {exponent(sizes, seconds):.2f}" if len(sizes) > 2 else cost
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(against)
        axes.set_xticks([sizes[0], sizes[-1]], [f"{sizes[0]:,}", f"{sizes[-1]:,}"])
        low, high = (1e3 * pick(seconds) for pick in (min, max))
        axes.set_yticks([low, high], [f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in (low, high)])
        axes.minorticks_off()
        axes.grid(True, which="major", color="0.9")
    figure.axes[0].set_ylabel("milliseconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


if __name__ == "__main__":
    cli.run(main)
