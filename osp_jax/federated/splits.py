"""Divisions of a labelled data set among clients, as disjoint and exhaustive index arrays.

'iid' deals all images at random; 'dirichlet' draws the shares of each class over clients from Dirichlet(alpha)
(Hsu, Qi and Brown, 2019, arXiv 1909.06335, and Li et al., 2022, arXiv 2102.02079: a smaller alpha is more uneven);
'classes' gives each client a number of classes, and divides the images of each class evenly among its holders.
"""

import dataclasses

import numpy as np

from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.runtime.errors import InputError

KINDS = ("iid", "dirichlet", "classes")

_MOST_DRAWS = 1000  # of a Dirichlet division, until each client has enough images


@dataclasses.dataclass(frozen=True)
class Division:
    """A division of images among clients."""

    kind: str = "iid"
    clients: int = 10
    alpha: float = 0.5  # for 'dirichlet'
    classes: int = 2  # number of classes per client, for 'classes'
    least: int = 2  # fewest images per client; 'dirichlet' is redrawn until each has as many

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting out of range."""
        check_choices(self, kind=KINDS)
        check_options(self, clients=(1, None), classes=(1, None), least=(1, None), alpha=(1e-6, None))


def divided(labels: np.ndarray, division: Division, seed: int) -> list[np.ndarray]:
    """The sorted indices of each client's images, int32; deterministic for a seed.

    Args:
      labels: int `(n,)`, of any data set.

    Raises:
      InputError: there are fewer images or classes than the clients need.
    """
    needed = division.clients * division.least
    if len(labels) < needed:
        raise InputError(
            f"{len(labels)} images cannot give {division.clients} clients {division.least} each; name fewer clients"
        )
    draw = np.random.default_rng(seed)
    parts = {"iid": _iid, "dirichlet": _dirichlet, "classes": _by_classes}[division.kind](labels, division, draw)
    return [np.sort(part).astype(np.int32) for part in parts]


def holdings(labels: np.ndarray, parts: list[np.ndarray], num_classes: int) -> np.ndarray:
    """The number of images of each class per client, int64 `(clients, classes)`."""
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts])


def _iid(labels: np.ndarray, division: Division, draw: np.random.Generator) -> list[np.ndarray]:
    return np.array_split(draw.permutation(len(labels)), division.clients)


def _dirichlet(labels: np.ndarray, division: Division, draw: np.random.Generator) -> list[np.ndarray]:
    for _ in range(_MOST_DRAWS):
        parts: list[list[np.ndarray]] = [[] for _ in range(division.clients)]
        for number in np.unique(labels):
            members = draw.permutation(np.flatnonzero(labels == number))
            shares = draw.dirichlet(np.full(division.clients, division.alpha))
            ends = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, piece in zip(parts, np.split(members, ends), strict=True):
                part.append(piece)
        found = [np.concatenate(part) for part in parts]
        if min(map(len, found)) >= division.least:
            return found
    raise InputError(
        f"no Dirichlet({division.alpha}) division in {_MOST_DRAWS} gave {division.clients} clients {division.least} "
        "images each; raise alpha, or name fewer clients or images"
    )


def _by_classes(labels: np.ndarray, division: Division, draw: np.random.Generator) -> list[np.ndarray]:
    known = np.unique(labels)
    if not len(known) <= division.clients * division.classes or division.classes > len(known):
        raise InputError(
            f"{division.clients} clients with {division.classes} classes each cannot hold {len(known)} classes; give "
            f"from {-(-len(known) // division.clients)} to {len(known)} classes a client"
        )
    holders: dict[int, list[int]] = {int(number): [] for number in known}
    for client in range(division.clients):
        # The classes with the fewest holders so far, in random order, so that all have equally many.
        order = sorted(draw.permutation(known).tolist(), key=lambda number: len(holders[number]))
        for number in order[: division.classes]:
            holders[number].append(client)
    parts: list[list[np.ndarray]] = [[] for _ in range(division.clients)]
    for number, clients in holders.items():
        members = draw.permutation(np.flatnonzero(labels == number))
        for client, piece in zip(clients, np.array_split(members, len(clients)), strict=True):
            parts[client].append(piece)
    found = [np.concatenate(part) for part in parts]
    if min(map(len, found)) < division.least:
        raise InputError(f"a client would have fewer than {division.least} images; name fewer clients")
    return found
