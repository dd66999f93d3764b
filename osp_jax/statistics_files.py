"""Class statistics on disk."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
from flax.serialization import to_state_dict

from osp_jax.program.channels import ChannelGroup, Channels, Writer
from osp_jax.runtime.arrays import load_tree, save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import ClassStatistics, Moments, Statistics


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Writes class statistics, with the table of channel groups as JSON beside the arrays."""
    tree = {"layers": statistics.layers}
    if statistics.labels.size:  # Orbax stores no empty array
        tree |= {"features": statistics.features, "labels": statistics.labels}
    if statistics.tail:
        tree |= {"tail": {str(number): values for number, values in enumerate(statistics.tail)}}
    save_tree(path, to_state_dict(tree), {"channels": dataclasses.asdict(statistics.channels)})


def load_statistics(path: Path) -> Statistics:
    """Raises `InputError` as `load_tree`, or where it holds something else."""
    tree, metadata = load_tree(path)
    try:
        groups = tuple(
            ChannelGroup(
                group["name"],
                group["channels"],
                tuple(Writer(w["path"], tuple(w["leaves"]), w["kernel"]) for w in group["writers"]),
            )
            for group in metadata["channels"]["groups"]
        )
        layers = {
            # Statistics of older versions have no deviations: these follow from the sums, as far as float32 has them.
            name: ClassStatistics(layer["count"], Moments(**layer["mean"]), Moments(**layer["max"]))
            for name, layer in tree["layers"].items()
        }
        channels = Channels(groups, metadata["channels"]["head"], metadata["channels"]["features"])
        features = tree.get("features", jnp.zeros((0, 0))), tree.get("labels", jnp.zeros(0, jnp.int32))
        tail = tree.get("tail", {})
        return Statistics(layers, *features, channels, tuple(tail[str(number)] for number in range(len(tail))))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} holds no class statistics (no {error}); delete it and collect them again") from error
