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
    """A user's function; two of the same one are equal, so that they share compiled programs."""

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
    """A trained network that is a plain function as a `Model`.

    With Equinox: `arrays, static = eqx.partition(network, eqx.is_array)`, and
    `apply = lambda arrays, images: jax.vmap(eqx.combine(arrays, static))(images)`.

    Args:
      apply: `(variables, images) -> logits`, pure, in eval mode; normalised float32 images `(batch, h, w, c)` to
        logits `(batch, classes)`. Compiled programs are kept by this function: give the same one each time.
      variables: a pytree of arrays.
      mean, std: of the normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number.
      forgotten: classes that were forgotten before.
      train_apply: `(variables, images, rng) -> (logits, variables)` in train mode; methods that train need it.
      init: `(key, image_shape) -> variables`; `retrain` needs it.
      is_parameter: whether gradient steps may change the leaf at a path, 'layers/0/weight'; all by default.

    Raises:
      InputError: no function, variables without arrays, or moments or names that cannot be used.
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
