"""The distance of two pytrees of arrays."""

from typing import Any

import jax
import numpy as np


def relative(one: Any, other: Any) -> float:
    """The largest difference of a leaf, over its size."""
    errors = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12), one, other)
    return max(jax.tree.leaves(errors))
