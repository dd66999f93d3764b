"""Pytrees of arrays on disk, written by Orbax. A folder is written atomically with its `SHA256SUMS`, and every read
verifies these."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as orbax
from orbax.checkpoint import v1 as ocp

from osp_jax.runtime.distributed import is_first, place, wait_for_all, whole
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import check_sums, write_sums
from osp_jax.runtime.replacing import building
from osp_jax.runtime.system_errors import code_of
from osp_jax.runtime.system_errors import system_errors as _disk_errors


def save_tree(path: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a pytree of arrays and a JSON record to the new folder `path`."""
    tree = uncommitted(tree)
    save_as(path, lambda folder: ocp.save(folder, tree, custom_metadata=metadata))


def save_as(path: Path, save: Callable[[Path], None]) -> None:
    """Calls `save` with the path of a folder to create, and moves the folder to `path` when it is complete."""
    path = path.absolute()
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors(path), building(path) as folder:
        save(folder)
        wait_for_all("the arrays are written")
        write_sums(folder)
    wait_for_all("the arrays are in their place")


def save_plain(folder: Path, tree: Any) -> None:
    """Writes a pytree to the new folder in the format of `StandardCheckpointer`, without files of our own."""
    with _disk_errors(folder), orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def load_tree(path: Path) -> tuple[Any, dict[str, Any]]:
    """(pytree of arrays as nested dicts, JSON record) from `save_tree`.

    Raises:
      InputError: `path` does not exist or is damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path} does not exist")
    with readable(path, path.parent, f"restore it, or delete {path} and collect it again"):
        record = ocp.metadata(path.absolute())
        tree = ocp.load(path.absolute(), abstract(record.metadata))
    return uncommitted(tree), record.custom_metadata


def abstract(tree: Any) -> Any:
    """Shapes and dtypes for restoring to the devices of this machine, whichever machine wrote them."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole()), tree)


def uncommitted(tree: Any) -> Any:
    """On all devices in use; on a single device, uncommitted: Orbax commits arrays to their device, and a step over
    committed and uncommitted arrays would be compiled twice."""
    return place(jax.device_get(tree))


@contextmanager
def readable(folder: Path, workdir: Path, remedy: str) -> Iterator[None]:
    """Verifies the checksums of `folder`, and raises Orbax's errors in the block as an `InputError`.

    It converts only errors that a mismatch or damage causes; errors of our own code keep their traceback.
    """
    checked = check_sums(folder, remedy, complete=True, part_of=workdir)
    expected = (ValueError, KeyError) if checked else _DAMAGE
    try:
        yield
    except expected as error:
        reason = " ".join(str(error).split())[:160]
        if code := code_of(error):
            raise OSError(code, os.strerror(code), str(folder)) from error
        if checked:
            raise InputError(f"{folder} is of another model; choose another workdir ({reason})") from error
        raise InputError(f"{folder} is damaged or belongs to another model; {remedy} ({reason})") from error


# Errors of Orbax and TensorStore for damaged files without checksums, from experiments with kinds of damage.
_DAMAGE = (ValueError, KeyError, OSError, RuntimeError)
