"""What every benchmark shares: its flag, its table, its JSON."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np


def parser(description: str) -> argparse.ArgumentParser:
    """With the flag `--json=FILE` that every benchmark has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the table there, as JSON")
    return made


def seconds_per_call(call: Callable[[], Any], calls: int) -> list[float]:
    """Wall seconds of `calls` calls after one that warms up, each until its result is ready."""
    jax.block_until_ready(call())
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times


def median_and_p99(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), float(np.percentile(times, 99))


def report(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    """Prints the rows as a table, and writes them with their provenance."""
    from rich.console import Console
    from rich.table import Table

    from osp_jax.provenance import provenance
    from osp_jax.workdir import write_json

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, {"rows": rows, "provenance": provenance(seed=0)})
