"""Imports a network: the function that creates it and a file of its weights become a `Model`.

Four kinds of networks are supported: torch modules, Flax Linen modules, Flax NNX modules, and functions
`(variables, images) -> logits`. The weights may be in any format of `weight_files`; arrays are matched by name.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx, traverse_util

from osp_jax.interop.checks import check_logits
from osp_jax.interop.function import from_function
from osp_jax.interop.linen import from_linen
from osp_jax.interop.network_source import build_network as build_network
from osp_jax.interop.nnx import from_nnx
from osp_jax.interop.weight_files import WeightFile, matched
from osp_jax.model import Model, every_leaf, in_params
from osp_jax.runtime.errors import InputError, shown
from osp_jax.trees import edited, leaves_by_path

KINDS = "a torch.nn.Module, a Linen module, an NNX module, or a function (variables, images) -> logits"


class Imported(NamedTuple):
    """A model, and the location of its arrays in the weight file: `keys` maps array names to keys in the file.

    Array names are the paths of the leaves of `model.variables`; for a torch module, the keys of its whole state dict.
    """

    model: Model
    keys: dict[str, str]


def framework_of(network: Any) -> str:
    """'torch', 'linen', 'nnx' or 'function'.

    Raises:
      InputError: `network` is anything else, or a class instead of an instance.
    """
    if isinstance(network, type):
        raise InputError(f"the network's function returns the class {network.__name__}; return an instance of it")
    if any(kind.__module__ == "torch.nn.modules.module" for kind in type(network).__mro__):
        return "torch"
    if isinstance(network, nn.Module):
        return "linen"
    if isinstance(network, nnx.Module):
        return "nnx"
    if callable(network):
        return "function"
    raise InputError(f"the network's function returns {shown(network)}; return {KINDS}")


def model_of(
    network: Any,
    weights: WeightFile,
    image_shape: tuple[int, int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    forgotten: Sequence[int] = (),
) -> Model:
    """Loads the weights of a file into a network, and converts it to a `Model`.

    Args:
      network: a torch module, a Linen module, an NNX module or a function `(variables, images) -> logits`.
      weights: what `read_weights` returns.
      image_shape: `(height, width, channels)` of the images.
      mean, std: normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number, in the order of the logits.
      forgotten: classes that were forgotten, or excluded from the training.

    Raises:
      InputError: the file lacks an array, has one of another shape, or has additional ones; or the network cannot take
        such images, or does not have one logit per class.
    """
    given = {"mean": mean, "std": std, "class_names": class_names, "forgotten": forgotten}
    return import_network(network, weights, image_shape, **given).model


def import_network(
    network: Any,
    weights: WeightFile,
    image_shape: tuple[int, int, int],
    *,
    where: str = "the weights file",
    **given: Any,
) -> Imported:
    """Like `model_of`, and also returns the keys of the arrays in the file; `where` names the file in errors."""
    make = {"torch": _torch, "linen": _linen, "nnx": _nnx, "function": _function}[framework_of(network)]
    imported = make(network, weights, tuple(image_shape), where, given)
    check_logits(imported.model, image_shape)
    return imported


def _torch(module: Any, weights: WeightFile, image_shape: tuple[int, ...], where: str, given: dict) -> Imported:
    import torch

    from osp_jax.interop.torch import from_torch

    state = module.state_dict()
    if lazy := next((name for name, value in state.items() if torch.nn.parameter.is_lazy(value)), None):
        raise InputError(
            f"the network's {lazy!r} has no shape yet (a lazy layer); call the network once on a batch of images in "
            "its function, before it is returned"
        )
    keys = matched(_shapes(weights.arrays), _shapes({k: v for k, v in state.items() if torch.is_tensor(v)}), where)
    tensors = {name: torch.from_numpy(_native(weights.arrays[key])) for name, key in keys.items()}
    module.load_state_dict({**state, **tensors})
    height, width, channels = image_shape
    example = np.random.default_rng(0).normal(size=(2, channels, height, width)).astype(np.float32)
    return Imported(from_torch(module, torch.from_numpy(example), **given), keys)


def _linen(module: nn.Module, weights: WeightFile, image_shape: tuple[int, ...], where: str, given: dict) -> Imported:
    init = from_linen(module, {"params": {}}, **given).init
    try:
        shapes = jax.eval_shape(partial(init, image_shape=image_shape), jax.random.key(0))
    except Exception as error:  # user code may raise anything for images that it does not support
        raise _does_not_take(type(module).__name__, image_shape, error) from error
    # Other collections that the module initialises, such as sown values, are not read from the file.
    present = {part for key in weights.arrays for part in re.split("[./]", key)}
    shapes = {name: tree for name, tree in shapes.items() if name in {"params", "batch_stats", *present}}
    keys = matched(_shapes(weights.arrays), _shapes(leaves_by_path(shapes)), where)
    variables = {"batch_stats": {}, **edited(shapes, _read(weights, keys))}
    return Imported(from_linen(module, variables, **given), keys)


def _nnx(module: nnx.Module, weights: WeightFile, image_shape: tuple[int, ...], where: str, given: dict) -> Imported:
    del image_shape
    model = from_nnx(module, **given)
    leaves = leaves_by_path(model.variables)
    spelled = {_variable_of(key): key for key in weights.arrays if not _is_random(key)}
    # A state saved as a whole has parameters and statistics side by side, without the names of collections.
    inner = {path.partition("/")[2]: path for path in leaves}
    whole = len(inner) == len(leaves) and not any("params" in re.split("[./]", key) for key in spelled)
    wanted = {name: leaves[path] for name, path in inner.items()} if whole else leaves
    in_file = {name: weights.arrays[key] for name, key in spelled.items()}
    found = matched(_shapes(in_file), _shapes(wanted), where)
    keys = {(inner[name] if whole else name): spelled[key] for name, key in found.items()}
    return Imported(model.replace(variables=edited(model.variables, _read(weights, keys))), keys)


def _function(apply: Any, weights: WeightFile, image_shape: tuple[int, ...], where: str, given: dict) -> Imported:
    del image_shape
    folders = any("/" in key for key in weights.arrays)  # formats without nesting join names by '.'
    keys = {key if folders else key.replace(".", "/"): key for key in weights.arrays}
    for path in keys:
        parent = next((above for above in _above(path) if above in keys), None)
        if parent is not None:
            raise InputError(f"{where} has an array {parent!r} and another {path!r} below it; rename one of them")
    variables = traverse_util.unflatten_dict(_read(weights, keys), sep="/")
    is_parameter = in_params if "params" in variables else every_leaf
    return Imported(from_function(apply, variables, **given, is_parameter=is_parameter), keys)


def _read(weights: WeightFile, keys: Mapping[str, str]) -> dict[str, jax.Array]:
    """The arrays of the file by path; floating-point arrays become float32."""
    found = {path: weights.arrays[key] for path, key in keys.items()}
    return {
        path: jnp.asarray(array, jnp.float32 if jnp.issubdtype(array.dtype, jnp.floating) else None)
        for path, array in found.items()
    }


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _native(array: np.ndarray) -> np.ndarray:
    """A copy with a dtype that torch supports; bfloat16 is not a dtype of NumPy itself."""
    foreign = array.dtype.isbuiltin != 1 and jnp.issubdtype(array.dtype, jnp.floating)
    return np.array(array.astype(np.float32) if foreign else array)


def _variable_of(key: str) -> str:
    """The name of a variable; a saved NNX state has its array under it, as 'value'."""
    return re.sub(r"[./](raw_)?value$", "", key)


def _is_random(key: str) -> bool:
    """Whether a key belongs to the state of NNX's random numbers, which eval mode does not use."""
    return bool({"rngs", "rng"} & set(re.split("[./]", key)))


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _does_not_take(name: str, image_shape: tuple[int, ...], error: Exception) -> InputError:
    height, width, channels = image_shape
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"{name} cannot be applied to images of {height}x{width} pixels and {channels} channels ({reason}); give "
        "--image_size or --channels as in its training"
    )
