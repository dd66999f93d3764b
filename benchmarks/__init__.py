"""Speed and memory; `python -m benchmarks.NAME --help` says what each one measures."""

import sys

from osp_jax.runtime import signals

if not any(argument.startswith("benchmarks.faults") for argument in sys.orig_argv):  # it forks, and may have no thread
    signals.catch_for("benchmarks.")
