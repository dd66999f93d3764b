"""Pytrees of arrays as Flower's records, checked leaf by leaf on receipt; Flower reads them without pickle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flwr.app import Array, ArrayRecord

from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaves_by_path


def record_of(tree: Any) -> ArrayRecord:
    """Every leaf of `tree` under its path, in the order of `jax.tree.leaves`."""
    return ArrayRecord({path: Array(np.asarray(leaf)) for path, leaf in leaves_by_path(tree).items()})


def tree_of(record: ArrayRecord, like: Any, sender: str) -> Any:
    """The pytree of a record from `record_of`.

    Args:
      like: a pytree with the expected structure, shapes and dtypes.
      sender: for messages, for example 'client 3'.

    Raises:
      InputError: a leaf is missing or unexpected, has another shape or dtype, or cannot be read.
    """
    expected = leaves_by_path(like)
    if other := sorted(expected.keys() ^ record.keys()):
        side = "is missing" if other[0] in expected else "is not expected"
        raise _other_network(sender, f"{other[0]} {side}")
    leaves = []
    for path, leaf in expected.items():
        found = numpy_of(record[path], f"{path} of {sender}")
        shape, dtype = np.shape(leaf), np.dtype(leaf.dtype)
        if found.shape != shape or found.dtype != dtype:
            raise _other_network(sender, f"{path} is {found.dtype} {found.shape}, expected {dtype} {shape}")
        leaves.append(jnp.asarray(found))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def numpy_of(array: Array, name: str) -> np.ndarray:
    """The values of one array. Raises `InputError` if its bytes are not an array."""
    try:
        return array.numpy()
    except (EOFError, TypeError, ValueError) as error:
        raise InputError(f"{name} is no array that NumPy reads ({error}); run the same version on all nodes") from error


def _other_network(sender: str, why: str) -> InputError:
    return InputError(f"{sender} has another network ({why}); give all clients the network of the server")
