"""Stores an imported network in a workdir: the location of its function and its weights, recorded in `config.json`.

The workdir keeps the original weight file, `imported/NAME`. It does not keep the program of the network: its function
runs again whenever the workdir is read, so an imported workdir runs the Python file that `config.json` names.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osp_jax.interop.imported import Imported, framework_of, import_network
from osp_jax.interop.network_source import Source, check_source, network_of
from osp_jax.interop.weight_files import WeightFile, read_weights
from osp_jax.model import Model
from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.records import IMPORTED
from osp_jax.runtime.replacing import copy_to_new_file

_AGAIN = "import the network again with experiments.import_model"


def network_record(
    source: Source, network: Any, weights: Path, file: WeightFile, keys: Mapping[str, str], recipe: bool
) -> dict[str, Any]:
    """The entry `network` of `config.json`.

    Args:
      weights: path of the weight file.
      keys: keys in the file, by the names of the network's arrays.
      recipe: whether the training settings are known.
    """
    return {
        "function": source.function,
        "file": str(source.file),
        "sha256": source.sha256,
        "framework": framework_of(network),
        "weights": {"file": f"{IMPORTED}/{_name(weights)}", "format": file.format, "keys": dict(keys)},
        "recipe": recipe,
    }


def keep_weights(weights: Path, folder: Path) -> None:
    """Copies a weight file, or a folder of one, to `folder/imported`; only the first process does so."""
    if not is_first():
        return
    place = folder / IMPORTED / _name(weights)
    place.parent.mkdir()
    if weights.is_dir():
        shutil.copytree(weights, place)
    else:
        shutil.copyfile(weights, place)


def keep_stored_weights(workdir: Path, folder: Path) -> None:
    """Copies the original weights in `workdir` to `folder`, as hard links if possible; only the first process does
    so."""
    if not is_first():
        return

    def link(source: str, place: str) -> None:
        try:
            os.link(source, place, follow_symlinks=False)
        except OSError:  # another file system, or one without hard links
            copy_to_new_file(source, place)

    shutil.copytree(workdir / IMPORTED, folder / IMPORTED, copy_function=link)


def stored_network(workdir: Path, record: Mapping[str, Any], image_shape: tuple[int, int, int], **given: Any) -> Model:
    """The network of an imported workdir with its original weights.

    Args:
      record: what `network_record` returned.
      given: `mean`, `std`, `class_names` and `forgotten`, as `model_of` takes them.

    Raises:
      InputError: the file of its function is missing or was changed, or no longer creates this network.
    """
    source = Source(record["function"], Path(record["file"]), record["sha256"])
    check_source(source, _AGAIN)
    path = workdir / record["weights"]["file"]
    weights = read_weights(path)
    key = source, _digest(weights), tuple(image_shape), tuple(given["class_names"]), len(given["mean"])
    if key not in _READ:
        if source not in _NETWORKS:
            _NETWORKS[source] = network_of(source)
        while len(_READ) >= _MOST_READ:
            _READ.pop(next(iter(_READ)))
        _READ[key] = import_network(_NETWORKS[source], weights, image_shape, where=str(path), **given)
    moments = tuple(map(float, given["mean"])), tuple(map(float, given["std"]))
    forgotten = tuple(sorted(given["forgotten"]))
    return _READ[key].model.replace(mean=moments[0], std=moments[1], forgotten=forgotten)


# Workdirs of one network share its functions, and thus compiled programs.
_NETWORKS: dict[Source, Any] = {}
_READ: dict[Any, Imported] = {}
_MOST_READ = 4


def _digest(weights: WeightFile) -> str:
    made = hashlib.sha256()
    for key, array in weights.arrays.items():
        made.update(f"{key}\0{array.dtype}{array.shape}".encode())
        made.update(array.tobytes())
    return made.hexdigest()


def _name(weights: Path) -> str:
    return Path(os.path.abspath(weights)).name
