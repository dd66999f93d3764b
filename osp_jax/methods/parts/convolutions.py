"""Kernels of 2-D convolutions, in any layout."""

from collections.abc import Sequence
from typing import Any

from osp_jax.model import Model
from osp_jax.program.kernels import KernelAxes, kernel_axes
from osp_jax.trees import leaves_by_path


def convolution_kernels(model: Model, image_shape: Sequence[int]) -> dict[str, KernelAxes]:
    """The parameters that are kernels of 2-D convolutions, by path, with their axes."""
    found = kernel_axes(model.apply, model.variables, image_shape)
    return {path: axes for path, axes in found.items() if len(axes.window) == 2 and model.is_parameter(path)}


def possible_kernels(model: Model) -> dict[str, Any]:
    """The parameters whose shape allows a 2-D convolution kernel, by path, for use without images; `model.variables`
    may hold shapes."""
    leaves = leaves_by_path(model.variables)
    return {path: leaf for path, leaf in leaves.items() if len(leaf.shape) == 4 and model.is_parameter(path)}
