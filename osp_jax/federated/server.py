"""The computations of a server: the weighted mean of the clients' models, and the total of their sums."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.federated.client import Sums
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaves_by_path


@jax.jit
def mean_of(stacked: Any, weights: jax.Array) -> Any:
    """The weighted mean of pytrees stacked along a first axis `(clients, ...)`; `weights` float32 `(clients,)`.

    Federated averaging (McMahan et al., 2017, arXiv 1602.05629), including running statistics of norms.
    """
    share = weights / weights.sum()
    return jax.tree.map(lambda leaf: jnp.tensordot(share, leaf, 1, precision=jax.lax.Precision.HIGHEST), stacked)


def aggregate(updates: Sequence[Any], weights: Sequence[float], names: Sequence[Any] = ()) -> Any:
    """The weighted mean of the variables of clients.

    Args:
      updates: variables, one pytree per client; in a fixed order of the clients for bit-identical sums.
      weights: usually `num_examples` of each.
      names: names of the clients, for messages; default: their positions.

    Raises:
      InputError: no client answered, the clients have different networks, a value is not finite, or all weights are 0.
    """
    stacked = stacked_updates(updates, names)
    weights = np.asarray(weights, np.float32)
    if weights.shape != (len(updates),) or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise InputError(f"the weights of {len(updates)} clients are {weights.tolist()}; give numbers of images")
    return mean_of(stacked, weights)


def stacked_updates(updates: Sequence[Any], names: Sequence[Any] = ()) -> Any:
    """The variables of clients, stacked along a first axis. Raises `InputError` as `aggregate`."""
    if not len(updates):
        raise InputError("no client answered in this round; ask more clients, or wait for them")
    names = list(names) or list(range(len(updates)))
    first = {path: (np.shape(leaf), str(leaf.dtype)) for path, leaf in leaves_by_path(updates[0]).items()}
    for name, update in zip(names, updates, strict=True):
        found = {path: (np.shape(leaf), str(leaf.dtype)) for path, leaf in leaves_by_path(update).items()}
        if other := sorted(first.items() ^ found.items()):
            raise InputError(
                f"client {name} has another network than client {names[0]} ({other[0][0]} differs); "
                "give all clients the network of the server"
            )
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *updates)
    check_finite(stacked, names)
    return stacked


def check_finite(stacked: Any, names: Sequence[Any]) -> None:
    """Raises `InputError` that names the first of the stacked clients with a value that is not finite."""
    finite = np.asarray(_finite(stacked))
    if not finite.all():
        name = list(names)[int(np.argmin(finite))]
        raise InputError(f"client {name} sent values that are not finite; lower the learning rate, or leave it out")


@jax.jit
def _finite(stacked: Any) -> jax.Array:
    each = [jnp.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(stacked)]
    return reduce(jnp.logical_and, each)


def total(answers: Sequence[Sums]) -> Sums:
    """The sums over the images of all clients: exact for any division of the images among them.

    Raises:
      InputError: no client answered, or their answers have different layers or groups.
    """
    if not answers:
        raise InputError("no client answered the query; ask more clients, or wait for them")
    shapes = [{name: sums.shape for name, sums in answer.sums.items()} for answer in answers]
    if other := next((i for i, shape in enumerate(shapes) if shape != shapes[0]), 0):
        raise InputError(
            f"client {other} answered about other layers than client 0; give all clients the network of the server"
        )
    count = np.sum([answer.count for answer in answers], axis=0, dtype=np.float64)
    sums = {
        name: np.sum([answer.sums[name] for answer in answers], axis=0, dtype=np.float64).astype(np.float32)
        for name in answers[0].sums
    }
    return Sums(count.astype(np.float32), sums)


def size_of(tree: Any) -> int:
    """The size of a pytree's arrays in bytes, without any encoding."""
    return sum(int(np.size(leaf)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
