"""The time of a training step by kind of operation, summed from jax.profiler's trace of some steps.

python -m benchmarks.profile [--models=resnet8,resnet18] [--json=FILE]

The time of an operation excludes that of the operations within it. `--keep=FOLDER` keeps the traces there, for
TensorBoard or Perfetto. The network has the step of `benchmarks.throughput`; concurrent threads are summed.
"""

import collections
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks import cli
from benchmarks.throughput import compiled_step
from osp_jax.runtime.arguments import path, several, whole

_STEPS = 3
# The first kind that matches an operation, or the operations that XLA fused into it. Winograd's convolutions and our
# kernel gradients are matrix products, with additional sums and copies.
_KINDS = {
    "convolutions": {"convolution"},
    "matrix products": {"dot"},
    "reductions": {"reduce", "reduce-window"},
    "copies and layout": {"copy", "transpose", "pad", "slice", "concatenate", "dynamic-slice", "dynamic-update-slice"},
}
_NO_WORK = {"parameter", "constant", "bitcast", "reshape", "broadcast", "iota", "tuple", "get-tuple-element"}


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=several(cli.network), default="resnet8,resnet18")
    arguments.add_argument("--batch", type=whole(1, 65536), default=128)
    arguments.add_argument("--keep", type=path("folder"), default=None, metavar="FOLDER")
    flags = arguments.parse_args()
    images, labels = cli.random_images(flags.batch, 32, 10)
    rows = []
    for model in flags.models:
        step, state, given = compiled_step(model, "float32", images, labels)
        kinds = kinds_of(step.as_text())
        state, _ = jax.block_until_ready(step(state, *given))
        with tempfile.TemporaryDirectory() as temporary:
            folder = flags.keep / model if flags.keep else Path(temporary)
            with jax.profiler.trace(str(folder)):
                for _ in range(_STEPS):
                    state, _ = jax.block_until_ready(step(state, *given))
            (file,) = sorted(folder.rglob("*.trace.json.gz"))[-1:]
            times = own_times(json.loads(gzip.decompress(file.read_bytes()))["traceEvents"])
        by_kind: collections.Counter[str] = collections.Counter()
        for name, microseconds in times.items():
            by_kind[kinds.get(name, "other")] += microseconds
        total = sum(by_kind.values())
        for kind in (*_KINDS, "element-wise", "other"):
            milliseconds = by_kind[kind] / _STEPS / 1e3
            rows.append({"model": model, "kind": kind, "ms a step": milliseconds, "share": by_kind[kind] / total})
    cli.report(rows, flags.json)


def kinds_of(program: str) -> dict[str, str]:
    """The kind of work of each operation of a compiled program, by its name."""
    called: dict[str, set[str]] = {}  # the operations of each computation
    operations: dict[str, tuple[str, str]] = {}  # the operation's own name, and the computation that it calls
    within = ""
    for line in program.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            within = begins[1]
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([a-z\-]+)\(", line):
            calls = re.search(r"calls=%?([\w.\-]+)", line)
            operations[found[1]] = found[2], calls[1] if calls else ""
            called.setdefault(within, set()).add(found[2])

    def kind(code: str, computation: str) -> str:
        codes = called.get(computation, {code}) - _NO_WORK
        moves = _KINDS["copies and layout"]
        for name, wanted in _KINDS.items():
            if codes & wanted and (wanted is not moves or codes <= moves):
                return name
        return "other" if code in ("while", "call", "conditional") else "element-wise"

    return {name: kind(*operation) for name, operation in operations.items()}


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
    cli.run(main)
