"""Seconds until a command answers `--help`, and until the library is imported.

python -m benchmarks.startup [--json=FILE]

Each runs in a new Python process; the first run of each, which reads the files from disk, is not counted.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import cli
from osp_jax.runtime.arguments import whole

_IMPORTS = ("jax", "osp_jax", "osp_jax.methods", "osp_jax.training.loop")


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--calls", type=whole(1, 1000000), default=5)
    flags = arguments.parse_args()
    root = Path(__file__).parents[1]
    files = sorted((root / "experiments").glob("*.py"))
    commands = [file.stem for file in files if "__main__" in file.read_text(encoding="utf-8")]
    programs = {f"experiments.{name} --help": ["-m", f"experiments.{name}", "--help"] for name in commands}
    programs |= {f"import {name}": ["-c", f"import {name}"] for name in _IMPORTS}
    rows = []
    for what, program in programs.items():
        seconds = []
        for _ in range(flags.calls + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, *program], cwd=root, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        rows.append({"what": what, "median s": statistics.median(seconds[1:]), "most s": max(seconds[1:])})
    cli.report(rows, flags.json)


if __name__ == "__main__":
    cli.run(main)
