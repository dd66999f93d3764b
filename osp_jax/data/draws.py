"""Random numbers on the host that follow from a JAX key, for index arrays: no program is compiled for each shape."""

import jax
import numpy as np


def host_generator(key: jax.Array) -> np.random.Generator:
    """The same key, the same draws."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
