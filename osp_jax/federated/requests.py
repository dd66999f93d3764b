"""Requests at three levels, in one form: the images to forget of a class, of whole clients, or single images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from osp_jax.federated.client import ClientData
from osp_jax.runtime.errors import InputError

LEVELS = ("class", "client", "sample")


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """`forget`: bool `(clients, n)`, the images of stacked clients to forget.

    `classes` are those of a request for classes; `clients` those that leave, or whose images are to be forgotten.
    """

    level: str
    forget: np.ndarray
    classes: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()

    def retained(self, clients: ClientData) -> ClientData:
        """The clients without these images, which stay in the arrays but are not `present`."""
        return clients._replace(present=clients.present & ~self.forget)

    def forgotten(self, clients: ClientData) -> ClientData:
        """The clients with these images only."""
        return clients._replace(present=clients.present & self.forget)


def forget_class(clients: ClientData, classes: Sequence[int]) -> Request:
    """All images of the classes, on all clients. Raises `InputError` if no client has one, or no other images exist."""
    chosen = clients.present & np.isin(np.asarray(clients.labels), list(classes))
    return _checked(Request("class", chosen, tuple(sorted(classes))), clients, f"of class {list(classes)}")


def forget_clients(clients: ClientData, ids: Sequence[int]) -> Request:
    """All images of the clients `ids`. Raises `InputError` for an unknown client, or for all clients."""
    number = len(clients.present)
    if wrong := [client for client in ids if not 0 <= client < number]:
        raise InputError(f"there is no client {wrong[0]}; give numbers from 0 to {number - 1}")
    chosen = clients.present & np.isin(np.arange(number), list(ids))[:, None]
    return _checked(Request("client", chosen, clients=tuple(sorted(ids))), clients, f"on clients {list(ids)}")


def forget_samples(clients: ClientData, ids: Sequence[int], share: float, seed: int) -> Request:
    """A random `share` of the images of each of the clients `ids`. Raises `InputError` as `forget_clients`."""
    whole, chosen = forget_clients(clients, ids).forget, np.zeros_like(clients.present)
    for client in ids:
        there = np.flatnonzero(whole[client])
        draw = np.random.default_rng([seed, client]).permutation(there)
        chosen[client, draw[: max(round(share * len(there)), 1)]] = True
    return _checked(Request("sample", chosen, clients=tuple(sorted(ids))), clients, f"on clients {list(ids)}")


def _checked(request: Request, clients: ClientData, what: str) -> Request:
    if not request.forgotten(clients).present.any():
        raise InputError(f"no client has an image {what}; there is nothing to forget")
    if not request.retained(clients).present.any():
        raise InputError(f"all images of the federation are {what}; leave some")
    return request
