"""Speed and memory; `python -m benchmarks.NAME --help` describes each benchmark."""

import sys

from osp_jax.runtime import signals

if not any(argument.startswith("benchmarks.faults") for argument in sys.orig_argv):  # it forks and needs no threads
    signals.catch_for("benchmarks.")
