"""Functions shared by all benchmarks: the flag, the table, the JSON."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from osp_jax.data.memory import image_bytes, require_memory
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import MODELS, create_model, init_variables
from osp_jax.runtime.arguments import Parser, path
from osp_jax.runtime.errors import exit_on_input_error, unknown


def run(main: Callable[[], None]) -> None:
    """Calls `main()`; invalid input ends with one line and exit code 2, as in every command."""
    exit_on_input_error(main)


def parser(description: str) -> Parser:
    """A parser with the flag `--json=FILE` of every benchmark."""
    made = Parser(description=description.splitlines()[0])
    made.add_argument(
        "--json", type=path("file"), default=None, metavar="FILE", help="also write the table there, as JSON"
    )
    return made


def network(text: str) -> str:
    """A parser of network names."""
    if text not in MODELS:
        raise unknown("model", text, MODELS)
    return text


def random_model(name: str, classes: int, shape: tuple[int, int, int], **options: Any) -> Model:
    """A network of `MODELS` with random parameters, for images `shape`; `options` are those of `create_model`."""
    module = create_model(name, classes, shape, **options)
    variables = init_variables(module, shape, jax.random.key(0))
    moments = {"mean": (0.5,) * shape[-1], "std": (0.25,) * shape[-1]}
    return from_linen(module, variables, **moments, class_names=list(map(str, range(classes))))


def seconds_per_call(call: Callable[[], Any], calls: int) -> list[float]:
    """Wall seconds of `calls` calls after a warm-up call, each until its result is ready."""
    jax.block_until_ready(call())
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds (wall, processor) by name, of calls that alternate, after one warm-up round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, processor = (
        {name: statistics.median(t[i] for t in found[1:]) for name, found in times.items()} for i in (0, 1)
    )
    return wall, processor


def random_images(count: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `(count, size, size, 3)`, and labels int32 with equally many images per class."""
    require_memory(image_bytes(count, size, size, 3), "the images", "take fewer or smaller ones")
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return images, (np.arange(count) % classes).astype(np.int32)


def median_and_p99(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), float(np.percentile(times, 99))


def report(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    """Prints the rows as a table, and writes them with their provenance."""
    from rich.console import Console
    from rich.table import Table

    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import write_json

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, {"rows": rows, "provenance": provenance(seed=0)})
