"""Orbax folders, of its present layout and of the older ones that Flax users have."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osp_jax.runtime.errors import InputError


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the folder by its keys, joined by '/'."""
    raise InputError(f"{path} is a folder; give a weight file")


def rewrite(source: Path, out: Path, changes: Mapping[str, np.ndarray]) -> None:
    """Writes the folder `source` again, with other values in some arrays."""
    raise InputError(f"{source} is a folder; give a weight file")


def write(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a new folder of nested arrays."""
    raise InputError("Orbax folders are not written yet; choose another format")
