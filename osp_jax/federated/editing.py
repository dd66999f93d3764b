"""What a federated unlearning method is: one edit of the model by the server, which rounds of training may follow."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax

from osp_jax.federated.client import Query, Sums
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import Exchange, Traffic
from osp_jax.methods.parts.options import check_options
from osp_jax.model import Model

Ask = Callable[[Model, Query, Request, str], list[Sums]]


class Situation(NamedTuple):
    """What a server has when a request comes.

    Attributes:
      model: with the global variables.
      image_shape: `(h, w, c)`.
      ask: `(model, query, request, grouping) -> answers`: every client's `client_query` of that model over all its
        images in the groups of `client.groups_of`, for example `simulator.asking(clients)`.
      last: the last exchange of the training.
      key: for what a method draws.
    """

    model: Model
    image_shape: tuple[int, ...]
    ask: Ask
    last: Exchange
    key: jax.Array


class Edit(NamedTuple):
    """The edited variables; `mask` the factors on every later change of the parameters, None: all change; `traffic`
    what the clients were asked for; `about` what the method found out, JSON-ready."""

    variables: Any
    mask: Any = None
    traffic: Traffic = Traffic()
    about: dict[str, Any] = {}  # noqa: RUF012 (never changed)


@dataclasses.dataclass(frozen=True)
class FederatedMethod:
    """A federated unlearning method; its fields are its settings (`methods.parts.options.option`).

    Class attributes:
      levels: of the requests that it answers.
      recovers: whether rounds of training without the forgotten images follow.
      note: what a table says of it.
    """

    levels: ClassVar[tuple[str, ...]] = ()
    recovers: ClassVar[bool] = True
    note: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting of the wrong type or out of range."""
        check_options(self)

    def edit(self, situation: Situation, request: Request) -> Edit:
        """The model after the server's edit. Raises `InputError` for a request that it cannot answer."""
        raise NotImplementedError
