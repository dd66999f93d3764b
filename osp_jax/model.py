"""A trained classifier: a pure function and its variables."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from osp_jax.trees import leaves_by_path


def every_leaf(path: str) -> bool:
    """Counts every leaf as a parameter."""
    del path
    return True


def in_params(path: str) -> bool:
    """Counts the collection 'params' as parameters, as Linen does."""
    return path.startswith("params/")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained classifier of images or texts.

    The functions are pure and hashable. Compiled programs are cached by function, so two models with equal functions
    share them.

    Attributes:
      apply: `(variables, images) -> logits`, in eval mode: normalised float32 images `(batch, h, w, c)` to float
        logits `(batch, classes)`; for texts, token ids `(batch, length)` as whole float32 numbers.
      variables: any pytree of arrays.
      mean, std: normalisation constants per image channel, on the 0..1 scale; () for texts.
      class_names: by class number.
      forgotten: sorted numbers of the forgotten classes.
      train_apply: `(variables, images, rng) -> (logits, variables)`, in train mode; None if the network cannot be
        trained further. The returned variables differ only in other leaves, such as running statistics.
      init: `(key, image_shape) -> variables`, or None.
      is_parameter: whether gradient steps may change the leaf of `variables` at a path.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    variables: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    forgotten: tuple[int, ...] = ()
    train_apply: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]] | None = None
    init: Callable[[jax.Array, tuple[int, ...]], Any] | None = None
    is_parameter: Callable[[str], bool] = every_leaf

    @property
    def num_classes(self) -> int:
        """The number of logits, including those of forgotten classes."""
        return len(self.class_names)

    @property
    def known(self) -> tuple[int, ...]:
        """Numbers of the classes that are not forgotten."""
        return tuple(number for number in range(self.num_classes) if number not in self.forgotten)

    @property
    def reads_texts(self) -> bool:
        """Whether the inputs are token ids `(batch, length)`, which are not normalised, instead of images."""
        return not self.mean

    def replace(self, **changes: Any) -> "Model":
        """Returns a copy of the model with the given attributes replaced."""
        return dataclasses.replace(self, **changes)


def parameters_of(model: Model) -> int:
    """The number of scalars that gradient steps may change."""
    return sum(int(np.size(leaf)) for path, leaf in leaves_by_path(model.variables).items() if model.is_parameter(path))
