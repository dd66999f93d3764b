"""The interface of an unlearning method: a frozen dataclass of its settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_options
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Method:
    """An unlearning method; its fields are its settings, each with a default.

    A subclass is a frozen dataclass that defines `unlearn` and declares its settings with `options.option`. A value of
    the wrong type or out of the declared range raises `InputError`; a check of several settings together goes into
    `__post_init__`. Call `osp_jax.methods.unlearn_classes`, which checks the request, rather than `unlearn` itself.

    Class attributes:
      sees: the training images that it needs, of 'retain' and 'forget'.
      search: by setting name, the values that a comparison may try.
      trains: whether it needs `model.train_apply`.
      only_for: the kind of model that it requires; comparisons of all methods leave it out.
      starts_over: whether it needs `model.init`.
    """

    sees: ClassVar[tuple[str, ...]] = ()
    search: ClassVar[Mapping[str, Sequence[Any]]] = {}
    trains: ClassVar[bool] = False
    starts_over: ClassVar[bool] = False
    only_for: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting of the wrong type or out of range."""
        check_options(self)

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` if the method does not support the network; `model.variables` may hold shapes."""

    def answers_from(self, statistics: Statistics) -> bool:
        """Whether the statistics replace all that the method would take from images."""
        del statistics
        return False

    def needs_images(self, statistics: Statistics) -> bool:
        """Whether a request needs training images, given these stored statistics."""
        return bool(self.sees) and not self.answers_from(statistics)

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData | None,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model with new variables.

        Args:
          model: the model; it is not modified.
          forget: the classes to forget, sorted and checked.
          data: images that the method may use; None only if `sees` is empty.
          statistics: statistics of the training images, without earlier forgotten classes.
          rng: a JAX key.
        """
        raise NotImplementedError
