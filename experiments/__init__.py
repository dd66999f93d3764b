"""The commands; `python -m experiments.NAME --help` says what each one does."""

from osp_jax.runtime import signals

signals.catch_for("experiments.")
