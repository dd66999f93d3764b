"""The weights of a model as a file: the original file with changed arrays, or a new file."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from osp_jax.interop.weight_files import WeightFile, matched, read_weights, rewrite, write_weights
from osp_jax.interop.weights.torch_files import array_of
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.replacing import building
from osp_jax.trees import leaves_by_path


class Source(NamedTuple):
    """The original weight file of a model: `keys` maps paths of the model's entries to their keys in it."""

    path: Path
    file: WeightFile
    keys: Mapping[str, str]


def entries_of(model: Model) -> dict[str, np.ndarray]:
    """The arrays of a model by path; for one from PyTorch, those of its `state_dict` in their own dtypes."""
    if getattr(model.apply, "channels_first", False):
        from osp_jax.interop.torch import to_torch

        tensors = {key: value for key, value in to_torch(model).items() if hasattr(value, "detach")}
        return {key: array_of(tensor) for key, tensor in tensors.items()}
    return {path: np.asarray(leaf) for path, leaf in leaves_by_path(jax.device_get(model.variables)).items()}


def source_of(path: Path, entries: Mapping[str, np.ndarray], keys: Mapping[str, str] | None = None) -> Source:
    """Reads the original weight file of a model.

    Args:
      keys: as in `Source`; by default, keys are matched by name.

    Raises:
      InputError: it cannot be read, or belongs to another network.
    """
    file = read_weights(path)
    if keys is None:
        shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (file.arrays, entries)]
        keys = matched(*shapes, str(path))
    return Source(path, file, keys)


def changes_of(entries: Mapping[str, np.ndarray], source: Source) -> dict[str, np.ndarray]:
    """The entries whose values differ from those of the file as the network read them, by key in the file."""
    return {
        key: entries[path]
        for path, key in source.keys.items()
        if path in entries and not _same(entries[path], source.file.arrays[key])
    }


def write_again(out: Path, source: Source, changes: Mapping[str, np.ndarray], *, overwrite: bool) -> None:
    """Writes the original file with new values for `changes`, and verifies it before it is moved into place."""
    expected = {
        key: changes[key].astype(array.dtype) if key in changes else array for key, array in source.file.arrays.items()
    }
    with building(out, overwrite=overwrite) as content:
        rewrite(source.path, content, changes)
        _check(content, expected)


def write_new(
    out: Path, format: str, entries: Mapping[str, np.ndarray], metadata: Mapping[str, str], *, overwrite: bool
) -> None:
    """Writes a new file, and verifies it before it is moved into place."""
    with building(out, overwrite=overwrite) as content:
        write_weights(content, format, entries, metadata)
        _check(content, entries)


def _check(content: Path, expected: Mapping[str, np.ndarray]) -> None:
    found = read_weights(content).arrays
    differing = [key for key, array in expected.items() if key not in found or not _identical(found[key], array)]
    if differing or len(found) != len(expected):
        raise InputError(
            f"the file that was written does not give back {', '.join(differing[:1]) or 'the same keys'}; nothing was "
            "put in place; choose another --format"
        )


def _same(value: np.ndarray, stored: np.ndarray) -> bool:
    return _identical(value, stored.astype(value.dtype))


def _identical(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are equal bit by bit, so that NaN equals itself and -0.0 differs from 0.0."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()
