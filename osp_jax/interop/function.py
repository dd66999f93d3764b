"""A plain function and its pytree as a `Model`: Equinox, Haiku, Keras 3, hand-written JAX."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from osp_jax.interop.checks import checked_classes, checked_moments
from osp_jax.model import Model, every_leaf
from osp_jax.networks.cpu.depthwise import fast_depthwise
from osp_jax.runtime.errors import InputError, shown


@dataclasses.dataclass(frozen=True)
class _Apply:
    """A user's function; equal for equal functions, so that compiled programs are shared."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", "network")

    @fast_depthwise
    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def from_function(
    apply: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    forgotten: Sequence[int] = (),
    train_apply: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]] | None = None,
    init: Callable[[jax.Array, tuple[int, ...]], Any] | None = None,
    is_parameter: Callable[[str], bool] = every_leaf,
) -> Model:
    """Converts a trained network that is a plain function to a `Model`.

    With Equinox: `arrays, static = eqx.partition(network, eqx.is_array)`, and
    `apply = lambda arrays, images: jax.vmap(eqx.combine(arrays, static))(images)`.

    Args:
      apply: `(variables, images) -> logits`, pure, in eval mode; normalised float32 images `(batch, h, w, c)` to
        logits `(batch, classes)`. Compiled programs are cached by this function: pass the same object each time.
      variables: a pytree of arrays.
      mean, std: normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number.
      forgotten: numbers of already forgotten classes.
      train_apply: `(variables, images, rng) -> (logits, variables)` in train mode; needed by methods that train.
      init: `(key, image_shape) -> variables`; needed by `retrain`.
      is_parameter: whether gradient steps may change the leaf at a path, such as 'layers/0/weight'; default: all.

    Returns:
      the `Model`.

    Raises:
      InputError: `apply` is no function, `variables` has other leaves than arrays, or moments or names are invalid.
    """
    for name, function in {"apply": apply, "train_apply": train_apply, "init": init}.items():
        if (function is not None and not callable(function)) or (name == "apply" and function is None):
            raise InputError(f"{name} is {shown(function)}; give a function")
    leaves = jax.tree.leaves(variables)
    if not leaves or not all(hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves):
        raise InputError("variables must be a pytree of arrays alone; keep other values in the function")
    moments, names = checked_moments(mean, std), checked_classes(class_names)
    train_apply = train_apply and _Apply(train_apply)
    return Model(_Apply(apply), variables, *moments, names, tuple(sorted(forgotten)), train_apply, init, is_parameter)
