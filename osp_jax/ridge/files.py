"""The moments of a head on disk: `head/moments/CLASS.npy`, `head/prepared/CLASS.npy`, and features of images.

A class is stored as the packed lower triangle of its matrix. Forgetting a class leaves its file out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import lapack

from osp_jax.ridge.moments import HeadMoments, RandomFeatures, features_of
from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError

FOLDER = "head"


def save_moments(folder: Path, moments: HeadMoments) -> None:
    """Writes the moments to the new folder `folder`; only the first process does so."""
    if not is_first():
        return
    for name in ("moments", "prepared"):
        (folder / name).mkdir(parents=True)
    for number, matrix in moments.classes.items():
        packed, _ = lapack.dtrttp(np.asfortranarray(matrix), uplo="L")
        np.save(folder / "moments" / f"{number}.npy", packed, allow_pickle=False)
    for number, head in moments.prepared.items():
        np.save(folder / "prepared" / f"{number}.npy", head, allow_pickle=False)
    if moments.features is not None:
        for name in ("numbers", "labels", "values"):
            np.save(folder / f"{name}.npy", getattr(moments.features, name), allow_pickle=False)


def load_moments(folder: Path, settings: Mapping[str, Any], random: RandomFeatures, num_classes: int) -> HeadMoments:
    """Reads what `save_moments` wrote.

    Args:
      settings: with `ridge` and `scale`, as in `config.head`.

    Raises:
      InputError: there are no moments, or a file is damaged.
    """
    size = sum(random.kernel.shape) + 1
    classes = {
        number: _whole(_read(path, (size * (size + 1) // 2,)), size) for number, path in _numbered(folder / "moments")
    }
    if not classes:
        raise InputError(f"{folder} holds no moments of a class; restore it, or fit the head again")
    prepared = {number: _read(path, (size, num_classes)) for number, path in _numbered(folder / "prepared")}
    features = None
    if (folder / "values.npy").exists():
        features = features_of(*(_read(folder / f"{name}.npy") for name in ("numbers", "labels", "values")))
    return HeadMoments(classes, num_classes, settings["ridge"], settings["scale"], random, prepared, features)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.stem), path) for path in folder.glob("*.npy") if path.stem.isdecimal())


def _whole(packed: np.ndarray, size: int) -> np.ndarray:
    lower, _ = lapack.dtpttr(size, packed, uplo="L")
    return np.ascontiguousarray(lower + np.tril(lower, -1).T)


def _read(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    remedy = "restore it, or fit the head again"
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
    if shape is not None and found.shape != shape:
        raise InputError(f"{path} has the shape {found.shape}, not {shape}; {remedy}")
    return found
