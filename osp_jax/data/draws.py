"""Random numbers on the host from a JAX key, for index arrays, without compiling a program for each shape."""

import jax
import numpy as np


def host_generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator seeded by `key`."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
