"""Orbax folders: Zarr arrays, usually in one database (OCDBT), and a file `_METADATA` with their keys.

Arrays are read and written by TensorStore, as in Orbax, so that everything else in the folder stays the same: other
items, structure, values that are not arrays. A rewritten folder gets a new database, since the old one would still
contain the old values.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osp_jax.interop.weights import msgpack_files
from osp_jax.interop.weights.dtypes import DTYPES
from osp_jax.runtime.arrays import save_plain
from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError, printable, shown
from osp_jax.runtime.replacing import building, write_bytes

_METADATA, _DATABASE, _OLD_TREE = "_METADATA", "manifest.ocdbt", "checkpoint"
_DESCRIPTIONS = (".zarray", ".zattrs", "zarr.json")
_ARRAYS = ("jax.Array", "np.ndarray")
_USUAL = ("default", "state", "params", "model", "pytree", "train_state")  # items of a checkpoint, by preference
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, NotImplementedError, OverflowError)
_WEIGHTS = (".safetensors", ".msgpack", ".npz", ".pt", ".pth", ".th", ".bin", ".ckpt")
# Marker files of other kinds of folders.
_OTHER_FOLDERS = {
    "data.pkl": "is an unpacked PyTorch file; give the file itself, not unpacked",
    ".metadata": "is a distributed checkpoint of PyTorch; make it one file: "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, FILE)",
    "saved_model.pb": "is a TensorFlow model; save its arrays as npz: numpy.savez(FILE, **arrays)",
}


@dataclass(frozen=True)
class _Item:
    """The folder of one pytree: array names in the store by key, and arrays in the tree file of older Orbax."""

    folder: Path
    names: dict[str, str]
    inline: dict[str, np.ndarray]


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the folder by its keys, joined by '/'.

    Raises:
      InputError: the folder holds no pytree, or several, or is damaged.
    """
    item = _item(path)
    arrays = dict(item.inline)
    for key, name in item.names.items():
        array = _opened(path, _store(item.folder, name))
        if array.dtype.name not in DTYPES:
            raise InputError(f"{path}: {shown(key)} is of dtype {array.dtype.name}; save it as float32")
        try:
            arrays[key] = np.asarray(array.read().result())
        except _DAMAGE as error:
            raise _damaged(path, error) from error
    return arrays


def rewrite(source: Path, out: Path, changes: Mapping[str, np.ndarray]) -> None:
    """Writes a copy of the folder `source`, with new values for some arrays."""
    item = _item(source)
    inner = item.folder.relative_to(source)
    with building(out) as folder:
        if is_first():
            shutil.copytree(source, folder)
            _change(source, folder / inner, item, changes)


def write(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a new folder of nested arrays."""
    empty = next((key for key, array in arrays.items() if not array.size), None)
    if empty is not None:
        raise InputError(f"{shown(empty)} has no entries, which Orbax cannot hold; choose another format")
    tree = msgpack_files.nested(arrays)
    with building(out) as folder:
        save_plain(folder, tree)


def _change(source: Path, folder: Path, item: _Item, changes: Mapping[str, np.ndarray]) -> None:
    """Writes new values into `folder`, a copy of the item's folder."""
    names = {item.names[key]: value for key, value in changes.items() if key in item.names}
    if (folder / _DATABASE).is_file() and names:
        _copy_database(item.folder, folder, names)
    for name, value in names.items():
        _opened(source, _store(folder, name)).write(value).result()
    inline = {key: value for key, value in changes.items() if key in item.inline}
    if inline:
        tree = folder / _OLD_TREE
        write_bytes(tree, msgpack_files.rewritten(source, tree.read_bytes(), inline))


def _copy_database(source: Path, folder: Path, without: Collection[str]) -> None:
    """Creates the database in `folder` again, without the values of some arrays."""
    import tensorstore

    old, store = tensorstore.KvStore.open(_store(source)).result(), _store(folder)
    for path in (folder / _DATABASE, folder / "d", *folder.glob("ocdbt.process_*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    new, transaction = tensorstore.KvStore.open(store).result(), tensorstore.Transaction()
    for entry in old.list().result():
        name, _, chunk = entry.decode(errors="surrogateescape").partition("/")
        if name not in without or chunk in _DESCRIPTIONS:
            new.with_transaction(transaction)[entry] = old[entry]
    transaction.commit_sync()


def _item(path: Path) -> _Item:
    folder = _item_folder(path)
    inline = {}
    if (folder / _METADATA).is_file():
        try:
            names = dict(_names(json.loads((folder / _METADATA).read_text(encoding="utf-8"))))
        except (*_DAMAGE, RecursionError) as error:
            raise _damaged(path, error) from error
    else:
        names = {}
        if (folder / _OLD_TREE).is_file():
            inline = msgpack_files.read(folder / _OLD_TREE, (folder / _OLD_TREE).read_bytes())
        names |= {name.replace(".", "/"): name for name in _listed(path, folder)}
    return _Item(folder, names, inline)


def _listed(path: Path, folder: Path) -> list[str]:
    """The names of all arrays in a store without `_METADATA`."""
    import tensorstore

    if not (folder / _DATABASE).is_file():
        return sorted(file.parent.name for file in (*folder.glob("*/.zarray"), *folder.glob("*/zarr.json")))
    try:
        entries = tensorstore.KvStore.open(_store(folder)).result().list().result()
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    split = [entry.decode(errors="surrogateescape").rpartition("/") for entry in entries]
    return [name for name, _, chunk in split if chunk in (".zarray", "zarr.json")]


def _names(metadata: Any) -> list[tuple[str, str]]:
    """(keys joined by '/', name in the store) of every array in Orbax's metadata."""
    entries = metadata["tree_metadata"].values()
    keys = [
        [str(key["key"]) for key in entry["key_metadata"]]
        for entry in entries
        if entry["value_metadata"]["value_type"] in _ARRAYS and not entry["value_metadata"].get("skip_deserialize")
    ]
    return [("/".join(parts), ".".join(parts)) for parts in keys]


def _item_folder(path: Path) -> Path:
    """The folder of the pytree in a checkpoint.

    Raises:
      InputError: there is none, or there are several, as in a folder of checkpoints.
    """
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give the path of a weight file or an Orbax folder")
    found = _item_folders(path, 3)
    if len(found) > 1:
        parents = {folder.parent for folder in found}
        for name in _USUAL if len(parents) == 1 else ():
            found = [folder for folder in found if folder.name == name] or found
    if len(found) == 1:
        return found[0]
    if found:
        inner = sorted({folder.relative_to(path).parts[0] for folder in found}, key=lambda name: (len(name), name))
        steps = len({folder.parent for folder in found}) > 1
        raise InputError(
            f"{path} holds {len(inner)} {'checkpoints' if steps else 'pytrees'} ({printable(', '.join(inner[-3:]))}); "
            f"give one of them: {path / inner[-1]}"
        )
    files = [entry for entry in sorted(path.iterdir()) if entry.is_file()]
    weights = [file for file in files if file.suffix in _WEIGHTS or file.name.startswith("checkpoint_")]
    if weights:
        raise InputError(f"{path} is a folder; give one file in it, such as {weights[0]}")
    for name, reason in _OTHER_FOLDERS.items():
        if (path / name).is_file():
            raise InputError(f"{path} {reason}")
    raise InputError(f"{path} is a folder without an Orbax checkpoint; give a weight file, or the folder of one step")


def _item_folders(path: Path, depth: int) -> list[Path]:
    if any((path / name).is_file() for name in (_METADATA, _DATABASE)) or (
        (path / _OLD_TREE).is_file() and (path / _OLD_TREE).read_bytes()[:1] > b"\x80"
    ):
        return [path]
    if depth == 0:
        return []
    inner = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    return [found for entry in inner for found in _item_folders(entry, depth - 1)]


def _store(folder: Path, name: str = "") -> dict[str, Any]:
    """The TensorStore spec of an item, or of the array with this name."""
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    inner = f"{name}/" if name else ""
    if (folder / _DATABASE).is_file():
        return {"driver": "ocdbt", "base": base, "path": inner}
    return base | {"path": base["path"] + inner}


def _opened(path: Path, store: dict[str, Any]) -> Any:
    """The array in a store."""
    import tensorstore

    try:
        third = tensorstore.KvStore.open(store).result().read("zarr.json").result().value
        driver = "zarr3" if third else "zarr"
        return tensorstore.open({"driver": driver, "kvstore": store}, open=True).result()
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> InputError:
    reason = printable(" ".join(str(error).split())[:100]) or type(error).__name__
    return InputError(f"{path} is a damaged Orbax folder ({reason}); restore it or save it again")
