"""Reads weight files of other frameworks into arrays by key, and writes them in their original format.

A format is recognised by its content, not by its name. Nothing that could run code is ever loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osp_jax.interop.weights import msgpack_files, npz_files, orbax_folders, safetensors_files, torch_files
from osp_jax.interop.weights.keys import matched, outside
from osp_jax.interop.weights.recognise import FORMATS, format_of
from osp_jax.runtime.errors import InputError, shown, unknown
from osp_jax.runtime.replacing import write_bytes

__all__ = ["FORMATS", "WeightFile", "matched", "others", "read_weights", "rewrite", "write_weights"]

_FILES = {"torch": torch_files, "safetensors": safetensors_files, "msgpack": msgpack_files, "npz": npz_files}


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
      format: 'torch', 'safetensors', 'msgpack', 'orbax' or 'npz'.
      arrays: every array in its own dtype, by its key in the file. Keys of nested formats (msgpack, orbax) are joined
        by '/': 'params/Dense_0/kernel'. For a PyTorch file, these are the tensors of its state dict.
    """

    format: str
    arrays: dict[str, np.ndarray]


def read_weights(path: Path) -> WeightFile:
    """Reads a weight file, or an Orbax folder.

    Raises:
      InputError: it does not exist, is damaged, has an unknown format, or could run code. The message names the remedy.
    """
    path = Path(path)
    if path.is_dir():
        return WeightFile("orbax", _some(path, orbax_folders.read(path)))
    data = _content(path)
    kind = format_of(path, data)
    return WeightFile(kind, _some(path, _FILES[kind].read(path, data)))


def rewrite(source: Path, out: Path, changes: Mapping[str, np.ndarray]) -> None:
    """Writes the weights in `source` in their own format, with new values for some keys.

    Args:
      source: a file that `read_weights` can read.
      out: replaced once the new content is complete; a folder must not exist.
      changes: new values by key in the file, each of the stored shape; they are cast to the stored dtype. Everything
        else stays the same: other entries, keys, their order, dtypes. Without changes, `out` is a copy of `source`.

    Raises:
      InputError: as `read_weights`; a key that the file lacks; a value of another shape.
    """
    source, out = Path(source), Path(out)
    weights = read_weights(source)
    for key, value in changes.items():
        if key not in weights.arrays:
            raise unknown(f"key of {source}", key, list(weights.arrays)[:5])
        if np.shape(value) != weights.arrays[key].shape:
            raise InputError(f"{shown(key)} has shape {weights.arrays[key].shape} in {source}, not {np.shape(value)}")
    changes = {key: np.asarray(value).astype(weights.arrays[key].dtype) for key, value in changes.items()}
    if weights.format == "orbax":
        orbax_folders.rewrite(source, out, changes)
    elif not changes:
        write_bytes(out, _content(source))
    else:
        write_bytes(out, _FILES[weights.format].rewritten(source, _content(source), changes))


def write_weights(
    out: Path, format: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays by key to a new file, or folder, of a format.

    Args:
      out: replaced once the new content is complete; a folder must not exist.
      format: one of `FORMATS`.
      arrays: by key. In msgpack and Orbax, keys with '/' become nested tables.
      metadata: texts by name, stored if the format supports them (safetensors).

    Raises:
      InputError: an unknown format, or one that does not support these arrays.
    """
    arrays = {key: np.asarray(array) for key, array in arrays.items()}
    if format == "orbax":
        orbax_folders.write(Path(out), arrays)
    elif format == "safetensors":
        write_bytes(Path(out), safetensors_files.written(arrays, metadata or {}))
    elif format in _FILES:
        write_bytes(Path(out), _FILES[format].written(arrays))
    else:
        raise unknown("format of weights", format, FORMATS)


def others(path: Path, keys: Collection[str]) -> tuple[str, ...]:
    """Other contents of a weight file besides these keys, which `rewrite` does not change.

    After a request, these may still know the forgotten classes: averaged weights, the state of an optimiser.

    Args:
      path: a file that `read_weights` can read.
      keys: keys of the network's arrays.

    Returns:
      Prefixes of the other keys: 'optimizer', 'ema', 'opt_state'. Counters of PyTorch are left out.
    """
    path = Path(path)
    weights = read_weights(path)
    found = dict.fromkeys(outside(weights.arrays, keys))
    if weights.format == "torch":
        found |= dict.fromkeys(torch_files.others(path, _content(path)))
    return tuple(found)


def _some(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not arrays:
        raise InputError(f"{path} holds no arrays; save the variables of the network")
    return arrays


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file; give the path of a weight file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; give the path of a weight file") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; give a weight file that you may read") from error
