"""Class statistics on disk: arrays, and the table of gates as JSON."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.serialization import to_state_dict

from osp_jax.program.gates import Factor, Gate, Gates, Head
from osp_jax.runtime.arrays import load_tree, save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import ClassStatistics, Moments, Statistics


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Writes class statistics to the new folder `path`."""
    tree = {"layers": statistics.layers}
    if statistics.labels.size:  # Orbax stores no empty array
        tree |= {"features": statistics.features, "labels": statistics.labels}
    if statistics.cached_inputs:
        tree |= {"tail": {str(number): values for number, values in enumerate(statistics.cached_inputs)}}
    metadata = {"gates": _as_json(statistics.gates), "image_shape": list(statistics.image_shape)}
    save_tree(path, to_state_dict(tree), metadata)


def load_statistics(path: Path, find_gates: Callable[[], Gates] | None = None) -> Statistics:
    """Reads what `save_statistics` wrote.

    Args:
      find_gates: finds the gates of the network; used for statistics of older versions, which did not store gates.

    Raises:
      InputError: as `load_tree`, or the folder does not hold class statistics.
    """
    tree, metadata = load_tree(path)
    try:
        layers = {
            # Statistics of older versions have no deviations; they are computed from the sums, to float32 accuracy.
            name: ClassStatistics(layer["count"], Moments(**layer["mean"]), Moments(**layer["max"]))
            for name, layer in tree["layers"].items()
        }
        features = tree.get("features", jnp.zeros((0, 0))), tree.get("labels", jnp.zeros(0, jnp.int32))
        if "gates" in metadata:
            stored = tree.get("tail", {})
            inputs = tuple(stored[str(number)] for number in range(len(stored)))
            shape = tuple(metadata.get("image_shape", ()))
            return Statistics(layers, *features, _from_json(metadata["gates"]), inputs, shape)
        last = metadata["channels"]["features"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} holds no class statistics (no {error}); delete it and collect them again") from error
    if find_gates is None:
        raise InputError(f"{path} holds statistics of an older version; delete it and collect them again")
    found, gates = _of_older_version(layers, find_gates(), last, path)
    return Statistics(found, *features, gates)


def _of_older_version(
    layers: Mapping[str, ClassStatistics], gates: Gates, last: str, path: Path
) -> tuple[dict[str, ClassStatistics], Gates]:
    """(layers, gates) of the groups in both versions; `last` is the old name of the group that the head reads."""
    named = {group.name: last if group.name == gates.features and last else group.name for group in gates.groups}
    kept = [group for group in gates.groups if named[group.name] in layers]
    fits = all(layers[named[group.name]].mean.sum.shape[1] == group.channels for group in kept)
    if not fits or gates.features not in [group.name for group in kept]:
        raise InputError(f"{path} holds statistics of an older version; delete it and collect them again")
    found = {group.name: layers[named[group.name]] for group in kept}
    return found, dataclasses.replace(gates, groups=tuple(kept))


def _as_json(gates: Gates) -> dict[str, Any]:
    fields = dataclasses.asdict(gates)
    for gate in (*fields["groups"], *fields["filters"]):
        for factor in (*gate["writers"], *gate["readers"], *gate["kernels"]):
            count = len(factor["index"])
            if factor["index"] == tuple(range(count)):
                factor["index"] = count  # the common case
    return fields


def _from_json(fields: Mapping[str, Any]) -> Gates:
    def factor(of: Mapping[str, Any]) -> Factor:
        index = range(of["index"]) if isinstance(of["index"], int) else of["index"]
        return Factor(of["path"], tuple(of["shape"]), tuple(index))

    def gate(of: Mapping[str, Any]) -> Gate:
        factors = {name: tuple(map(factor, of[name])) for name in ("writers", "readers", "kernels")}
        return Gate(**{**of, **factors})

    groups, filters = (tuple(map(gate, fields[name])) for name in ("groups", "filters"))
    rest = {"head": Head(**fields["head"]), "read": tuple(fields["read"])}
    return Gates(**{**fields, **rest, "groups": groups, "filters": filters})
