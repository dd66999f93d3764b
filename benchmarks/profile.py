"""Where the time of a training step goes: jax.profiler's trace of some steps, added up by kind of operation.

python -m benchmarks.profile [--models=resnet8,resnet18] [--json=FILE]

The time of an operation is without that of the operations within it. `--keep=FOLDER` leaves the traces there, for
TensorBoard or Perfetto. The network has the step of `benchmarks.throughput`; threads that work at once are added up.
"""

import collections
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import cli
from benchmarks.throughput import jax_step

_STEPS = 3
# By the names that XLA gives: ours, of the gradients of kernels, are matrix products in a loop.
_KINDS = {
    "convolutions": r"conv",
    "kernel gradients as matrix products": r"dot|while|gemm|matmul",
    "element-wise and reductions": r"fusion|reduce|broadcast|add|multiply|select|compare|maximum|wrapped",
    "copies and layout": r"copy|transpose|pad|bitcast|slice|concatenate",
}


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", default="resnet8,resnet18")
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--keep", type=Path, default=None, metavar="FOLDER")
    flags = arguments.parse_args()
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (flags.batch, 32, 32, 3), dtype=np.uint8)
    labels = draw.integers(0, 10, flags.batch).astype(np.int32)
    rows = []
    for model in flags.models.split(","):
        run = jax_step(model, "float32", images, labels)
        run()
        with tempfile.TemporaryDirectory() as temporary:
            folder = flags.keep / model if flags.keep else Path(temporary)
            with jax.profiler.trace(str(folder)):
                for _ in range(_STEPS):
                    run()
            (file,) = sorted(folder.rglob("*.trace.json.gz"))[-1:]
            times = own_times(json.loads(gzip.decompress(file.read_bytes()))["traceEvents"])
        by_kind: collections.Counter[str] = collections.Counter()
        for name, microseconds in times.items():
            by_kind[next((kind for kind, names in _KINDS.items() if re.search(names, name)), "other")] += microseconds
        total = sum(by_kind.values())
        for kind in (*_KINDS, "other"):
            milliseconds = by_kind[kind] / _STEPS / 1e3
            rows.append({"model": model, "kind": kind, "ms a step": milliseconds, "share": by_kind[kind] / total})
    cli.report(rows, flags.json)


def own_times(events: list[dict[str, Any]]) -> dict[str, float]:
    """Microseconds of each operation on XLA's threads, by name, without what runs within it."""
    threads = {
        (event["pid"], event.get("tid"))
        for event in events
        if event.get("name") == "thread_name" and re.search("XLA|Stream", event["args"]["name"])
    }
    times: collections.Counter[str] = collections.Counter()
    for thread in threads:
        on_thread = [e for e in events if e.get("ph") == "X" and (e["pid"], e["tid"]) == thread]
        open_: list[tuple[str, float]] = []
        for event in sorted(on_thread, key=lambda e: (e["ts"], -e["dur"])):
            while open_ and open_[-1][1] <= event["ts"]:
                open_.pop()
            if open_:
                times[open_[-1][0]] -= event["dur"]
            times[event["name"]] += event["dur"]
            open_.append((event["name"], event["ts"] + event["dur"]))
    return {name: time for name, time in times.items() if not name.startswith("ThunkExecutor")}


if __name__ == "__main__":
    main()
