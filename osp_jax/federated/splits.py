"""Divisions of a labelled data set among clients, as index arrays that share no image and leave none out.

'iid' deals all images out at random; 'dirichlet' draws the shares of each class over clients from Dirichlet(alpha)
(Hsu, Qi and Brown, 2019, arXiv 1909.06335, and Li et al., 2022, arXiv 2102.02079: the smaller alpha, the more uneven);
'classes' gives each client so many classes, the images of each dealt out evenly among its holders.
"""

import dataclasses

import numpy as np

from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.runtime.errors import InputError

KINDS = ("iid", "dirichlet", "classes")

_MOST_DRAWS = 1000  # of a Dirichlet division, until each client has enough images


@dataclasses.dataclass(frozen=True)
class Division:
    """How images are divided among clients."""

    kind: str = "iid"
    clients: int = 10
    alpha: float = 0.5  # of 'dirichlet'
    classes: int = 2  # of each client, where the kind is 'classes'
    least: int = 2  # images of each client; 'dirichlet' is drawn again until each has as many

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting out of range."""
        check_choices(self, kind=KINDS)
        check_options(self, clients=(1, None), classes=(1, None), least=(1, None), alpha=(1e-6, None))


def divided(labels: np.ndarray, division: Division, seed: int) -> list[np.ndarray]:
    """The sorted indices of each client's images, int32; the same for the same seed.

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
    """How many images of each class each client has, int64 `(clients, classes)`."""
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
        # The classes that the fewest clients hold so far, in random order, so that all are held alike.
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
