"""Prepared requests in a workdir: `prepared/METHOD-SETTINGS/CLASS/`, each with the changes, a record and `SHA256SUMS`.

SETTINGS is a checksum of all inputs of the result besides the network, so that requests with different options have
different folders. The record contains the network's own checksum: after the network changes, its prepared requests are
refused. They describe the class, and are removed with it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osp_jax.harm import Harm
from osp_jax.methods import Method
from osp_jax.model import Model
from osp_jax.prepared.changes import KINDS, Change, Changes
from osp_jax.prepared.classes import Prepared, PreparedClass, fingerprint
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS, check_sums, read_sums, write_sums
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.replacing import building, discard, remove_leftovers
from osp_jax.runtime.system_errors import system_errors
from osp_jax.runtime.workdir import read_json, write_json
from osp_jax.statistics import Statistics

FOLDER = "prepared"

_ARRAYS, _RECORD = "changes.npz", "record.json"


def folder_of(workdir: Path, settings: Mapping[str, Any]) -> Path:
    """The folder in a workdir of the requests with these settings (`request_settings`), with one folder per class."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return workdir / FOLDER / f"{settings['method']}-{digest[:12]}"


def prepared_classes(folder: Path) -> list[int]:
    """The sorted numbers of the classes with requests in a folder of `folder_of`."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal() and entry.is_dir())


def save_prepared(folder: Path, number: int, name: str, prepared: Prepared) -> int:
    """Writes one class of `prepared` to a folder of `folder_of`, atomically; returns the size of its arrays on disk.

    Args:
      name: name of the class.
    """
    made, place = prepared.classes[number], folder / str(number)
    place.parent.mkdir(parents=True, exist_ok=True)
    changes = {path: {"kind": change.kind, "axis": change.axis} for path, change in made.changes.items()}
    arrays = {}
    for leaf, (path, change) in enumerate(made.changes.items()):
        changes[path]["dtypes"] = [str(array.dtype) for array in change.arrays]
        arrays |= {f"{leaf}_{part}": _plain(array) for part, array in enumerate(change.arrays)}
    record = {
        "class": number,
        "name": name,
        **prepared.settings,
        "network": prepared.network,
        "changes": changes,
        "exact": made.is_exact,
        "harm": dataclasses.asdict(made.harm) if made.harm else None,
        "description": dict(made.description),
        "data_seen": dict(made.data_seen),
        "seconds": made.seconds,
        "bytes": made.nbytes,
        "provenance": provenance(prepared.settings["seed"]),
    }
    with system_errors(place), building(place.absolute(), overwrite=True) as content:
        content.mkdir()
        with (content / _ARRAYS).open("xb") as file:
            np.savez(file, **arrays)
        write_json(content / _RECORD, record)
        write_sums(content)
    workdir = folder.parent.parent
    if (workdir / SUMS).exists():
        write_sums(workdir, [f"{place.relative_to(workdir)}/{SUMS}"])
    return (place / _ARRAYS).stat().st_size


def load_prepared(
    workdir: Path,
    method: Method,
    settings: Mapping[str, Any],
    model: Model,
    classes: Iterable[int],
    statistics: Statistics | None = None,
) -> Prepared | None:
    """The prepared requests of a workdir for `classes`; None if one of them was not prepared with these settings.

    Args:
      settings: `request_settings` of the request.
      model: the model of the workdir.

    Raises:
      InputError: a file is damaged, or belongs to another version or network.
    """
    folder, classes = folder_of(workdir, settings), list(classes)
    if not set(classes) <= set(prepared_classes(folder)):
        return None
    network = fingerprint(model)
    found = {number: _load_class(folder / str(number), network) for number in classes}
    return Prepared(method, network, settings, found, statistics)


def discard_stale(workdir: Path, network: str, known: Collection[int]) -> int:
    """Removes the prepared requests of other weights, and of forgotten classes; returns their number.

    Args:
      network: the fingerprint of the workdir's model.
      known: the classes that it has not forgotten.
    """
    places = [place for place in sorted(workdir.glob(f"{FOLDER}/*/*")) if place.is_dir() and place.name.isdecimal()]
    places = [place for place in places if int(place.name) not in known or _network_of(place) != network]
    _discard(workdir, places)
    return len(places)


def discard_prepared(workdir: Path, classes: Iterable[int]) -> int:
    """Removes the prepared requests of classes, for all methods, including leftovers of an interrupted command.

    Returns their number.

    Raises:
      OSError: the workdir cannot be written to.
    """
    places = [folder / str(number) for folder in sorted(workdir.glob(f"{FOLDER}/*")) for number in classes]
    for place in places:
        remove_leftovers(place)
    found = [place for place in places if place.is_dir()]
    _discard(workdir, found)
    return len(found)


def list_prepared(workdir: Path) -> None:
    """Adds the files of a command that was killed before it could do so to `SHA256SUMS` of a workdir."""
    if (workdir / SUMS).exists():
        listed = read_sums(workdir, "restore it") or {}
        names = [str(path.relative_to(workdir)) for path in sorted(workdir.glob(f"{FOLDER}/*/*/{SUMS}"))]
        if unlisted := [name for name in names if name not in listed]:
            write_sums(workdir, unlisted)


def _discard(workdir: Path, places: Sequence[Path]) -> None:
    for place in places:
        discard(place)
    if places and (workdir / SUMS).exists():
        write_sums(workdir, [])


def _network_of(place: Path) -> str | None:
    """The fingerprint of the network in the record of a class's folder; None if it cannot be read."""
    try:
        return read_json(place / _RECORD)["network"]
    except (InputError, KeyError, TypeError):
        return None


def _load_class(place: Path, network: str) -> PreparedClass:
    again = f"delete {place} and run experiments.prepare again"
    check_sums(place, again, required=(_ARRAYS, _RECORD), complete=True)
    record = read_json(place / _RECORD)
    try:
        if record["network"] != network:
            raise InputError(
                f"{place} was prepared for other weights than this network has now; run experiments.prepare again, or "
                "add --noprepared"
            )
        with np.load(place / _ARRAYS, allow_pickle=False) as arrays:
            changes = _changes(record["changes"], arrays)
        harm = Harm(**record["harm"]) if record["harm"] else None
        return PreparedClass(changes, harm, record["description"], record["data_seen"], record["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{place} was written by another version ({error}); {again}") from error


def _changes(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Changes:
    changes = {}
    for leaf, (path, fields) in enumerate(record.items()):
        if fields["kind"] not in KINDS:
            raise ValueError(f"unknown kind {fields['kind']}")
        parts = [arrays[f"{leaf}_{part}"].view(np.dtype(name)) for part, name in enumerate(fields["dtypes"])]
        changes[path] = Change(tuple(parts), fields["kind"], fields["axis"])
    return changes


def _plain(array: np.ndarray) -> np.ndarray:
    """The same bits in a dtype of NumPy itself, which bfloat16 and others are not."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.itemsize}")
