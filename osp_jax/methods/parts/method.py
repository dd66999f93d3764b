"""What every unlearning method is: a frozen dataclass of its settings, and what the registry asks of it."""

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
      sees: which training images it needs, of 'retain' and 'forget'.
      search: by the name of a setting, the values that a comparison may try for it.
      trains: whether it needs `model.train_apply`.
      only_for: the kind of model that it needs; a comparison of all methods leaves it out.
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
        """Raises `InputError` where the method cannot act on the network; `model.variables` may hold shapes."""

    def answers_from(self, statistics: Statistics) -> bool:
        """Whether the statistics hold all that the method would otherwise take from images."""
        del statistics
        return False

    def needs_images(self, statistics: Statistics) -> bool:
        """Whether a request must see training images, where these statistics are stored."""
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
        """The model with other variables.

        Args:
          forget: the classes to forget, sorted and checked.
          data: what the method may see of the images; None only where `sees` is empty.
          statistics: of the training images, without those of classes that were forgotten before.
        """
        raise NotImplementedError
