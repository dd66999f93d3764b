"""Kernels of 2-D convolutions."""

from typing import Any

import jax

from osp_jax.trees import leaves_by_path


def convolution_kernels(params: Any) -> dict[str, jax.Array]:
    """The leaves, by path, that are kernels of 2-D convolutions `(height, width, in, out)`, as Flax names and lays them
    out. Kernels of other libraries are not found."""
    leaves = leaves_by_path(params)
    return {path: leaf for path, leaf in leaves.items() if path.rpartition("/")[2] == "kernel" and leaf.ndim == 4}
