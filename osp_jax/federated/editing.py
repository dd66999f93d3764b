"""The interface of a federated unlearning method: one edit of the model by the server, and optional recovery rounds."""

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
    """The server's state when a request arrives.

    Attributes:
      model: the model with the global variables.
      image_shape: `(h, w, c)`.
      ask: `(model, query, request, grouping) -> answers`: every client's `client_query` with that model over all its
        images in the groups of `client.groups_of`, for example `simulator.asking(clients)`.
      last: the last exchange of the training.
      key: for random draws of a method.
    """

    model: Model
    image_shape: tuple[int, ...]
    ask: Ask
    last: Exchange
    key: jax.Array


class Edit(NamedTuple):
    """The edited variables; `mask`, factors on every later update of the parameters, None: all change; `traffic` of the
    queries; `about`, information from the method, JSON-ready."""

    variables: Any
    mask: Any = None
    traffic: Traffic = Traffic()
    about: dict[str, Any] = {}  # noqa: RUF012 (never modified)


@dataclasses.dataclass(frozen=True)
class FederatedMethod:
    """A federated unlearning method; its fields are its settings (`methods.parts.options.option`).

    Class attributes:
      levels: the levels of requests that it supports.
      recovers: whether rounds of training without the forgotten images follow.
      note: a remark for tables.
    """

    levels: ClassVar[tuple[str, ...]] = ()
    recovers: ClassVar[bool] = True
    note: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting of the wrong type or out of range."""
        check_options(self)

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Returns the server's edit of the model. Raises `InputError` for an unsupported request."""
        raise NotImplementedError
