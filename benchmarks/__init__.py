"""Speed and memory; `python -m benchmarks.NAME --help` says what each one measures."""

from osp_jax import signals

signals.catch_for("benchmarks.")
