"""Attacks by clients on their own images: swapped labels, and a trigger for a target class.

As in FedUP's experiments (arXiv 2508.13853), a share of each malicious client's images, by default 10%, is poisoned.
The two classes whose labels are swapped are those that a clean model confuses most (`confused_pair`). The paper's
trigger is a white square of 3x3 pixels in the lower right corner; the paper does not name the target class.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from osp_jax.federated.client import ClientData
from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.runtime.errors import InputError

KINDS = ("label-flip", "backdoor")


@dataclasses.dataclass(frozen=True)
class Attack:
    """The poisoning of malicious clients' images before training."""

    kind: str = "label-flip"
    share: float = 0.1  # paper: of the client's images; for 'label-flip', at most those of the two classes
    first: int = 0  # with `second`, the two classes whose labels 'label-flip' swaps
    second: int = 1
    target: int = 0  # target class of the trigger of 'backdoor'
    side: int = 3  # paper: side of the trigger, in pixels

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting out of range."""
        check_choices(self, kind=KINDS)
        check_options(self, share=(0, 1), first=(0, None), second=(0, None), target=(0, None), side=(1, None))
        if self.first == self.second:
            raise InputError(f"label-flip swaps two classes, and both are {self.first}; name two")


def attacked(clients: ClientData, malicious: Sequence[int], attack: Attack, seed: int) -> tuple[ClientData, np.ndarray]:
    """The clients with the images of `malicious` poisoned, and a mask of these images, bool `(clients, n)`.

    Args:
      clients: stacked.

    Raises:
      InputError: there is no such client, or the trigger is larger than the images.
    """
    number = len(clients.labels)
    if wrong := [client for client in malicious if not 0 <= client < number]:
        raise InputError(f"there is no client {wrong[0]}; give numbers from 0 to {number - 1}")
    images, labels = np.array(clients.images), np.array(clients.labels)
    poisoned = np.zeros(labels.shape, bool)
    for client in malicious:
        draw = np.random.default_rng([seed, client])
        there = np.flatnonzero(clients.present[client])
        if attack.kind == "label-flip":
            able = there[np.isin(labels[client, there], (attack.first, attack.second))]
        else:
            able = there[labels[client, there] != attack.target]
        chosen = draw.permutation(able)[: round(attack.share * len(there))]
        poisoned[client, chosen] = True
        if attack.kind == "label-flip":
            labels[client, chosen] = swapped(labels[client, chosen], attack)
        else:
            images[client, chosen] = triggered(images[client, chosen], attack.side)
            labels[client, chosen] = attack.target
    return ClientData(jnp.asarray(images), jnp.asarray(labels), clients.present), poisoned


def swapped(labels: np.ndarray, attack: Attack) -> np.ndarray:
    """`labels` int `(n,)` with the two classes of the attack exchanged."""
    return np.select([labels == attack.first, labels == attack.second], [attack.second, attack.first], labels)


def triggered(images: np.ndarray, side: int) -> np.ndarray:
    """A copy of `images` uint8 `(n, h, w, c)` with a white square of `side` pixels in the lower right corner.

    Raises:
      InputError: the images are smaller than the square.
    """
    if side > min(images.shape[1:3]):
        raise InputError(f"a trigger of {side} pixels does not fit images of {images.shape[1]}x{images.shape[2]}")
    images = np.array(images)
    images[:, -side:, -side:] = 255
    return images


def confused_pair(confusion: np.ndarray) -> tuple[int, int]:
    """The two classes that are most often confused, in ascending order.

    Args:
      confusion: counts `(classes, classes)`, rows are true classes.
    """
    both = np.triu(confusion + confusion.T, 1)
    first, second = np.unravel_index(np.argmax(both), both.shape)
    return int(first), int(second)
