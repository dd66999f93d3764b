"""Kernels of 2-D convolutions, in any layout."""

from collections.abc import Sequence
from typing import Any

from osp_jax.model import Model
from osp_jax.program.kernels import KernelAxes, kernel_axes
from osp_jax.trees import leaves_by_path


def convolution_kernels(model: Model, image_shape: Sequence[int]) -> dict[str, KernelAxes]:
    """The parameters, by path, that are kernels of 2-D convolutions, and their axes."""
    found = kernel_axes(model.apply, model.variables, image_shape)
    return {path: axes for path, axes in found.items() if len(axes.window) == 2 and model.is_parameter(path)}


def possible_kernels(model: Model) -> dict[str, Any]:
    """The parameters, by path, that could be kernels of 2-D convolutions by their shape alone, where no image is known;
    `model.variables` may hold shapes."""
    leaves = leaves_by_path(model.variables)
    return {path: leaf for path, leaf in leaves.items() if len(leaf.shape) == 4 and model.is_parameter(path)}
