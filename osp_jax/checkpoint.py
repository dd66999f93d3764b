"""Orbax checkpoints of variables, optimiser state and class statistics; the only file that touches Orbax.

A workdir holds `checkpoints/<epoch>/` with the items `variables` and, while training goes on, `optimiser`, and
`statistics/`. Orbax writes to a temporary name and renames, so what has its final name is whole.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import to_state_dict
from orbax.checkpoint import v1 as ocp

from osp_jax.activations import ClassStatistics, Moments, Statistics
from osp_jax.distributed import is_first, place, whole
from osp_jax.errors import InputError
from osp_jax.models.channels import ChannelGroup, Channels, Writer
from osp_jax.system_errors import system_errors as _disk_errors
from osp_jax.training.state import TrainState


@contextmanager
def training_checkpoints(workdir: Path, every: int, keep: int) -> Iterator[Any]:
    """The checkpointer of a training run; on leaving, saves under way are finished.

    Saves at epochs divisible by `every` (and where forced), and keeps the newest `keep`.
    """
    folder = (workdir / "checkpoints").absolute()
    policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
    with (
        _disk_errors(folder),
        ocp.training.Checkpointer(
            folder,
            save_decision_policy=policies[0].FixedIntervalPolicy(every),
            preservation_policy=policies[1].LatestN(keep),
            cleanup_tmp_directories=True,
        ) as checkpointer,
    ):
        yield checkpointer


def save_state(checkpointer: Any, epoch: int, state: TrainState, *, last: bool) -> None:
    """Saves asynchronously; returns once the state is copied, so that the next step may reuse its buffers."""
    # A donated buffer could be overwritten while the background thread still reads it.
    state = jax.tree.map(jnp.copy, state)
    checkpointer.save_checkpointables_async(epoch, _items(state), force=last and not checkpointer.should_save(epoch))


def restore_state(checkpointer: Any, like: TrainState) -> tuple[int, TrainState]:
    """(epochs done, state) of the newest checkpoint; (0, `like`) where there is none.

    Raises:
      InputError: the newest checkpoint is damaged, or of another model or optimiser.
    """
    if checkpointer.latest is None:
        return 0, like
    epoch = checkpointer.latest.step
    folder = Path(checkpointer.directory) / str(epoch)
    with _readable(folder):
        return epoch, _state_of(checkpointer.load_checkpointables(epoch, _abstract(_items(like))))


def save_stop(workdir: Path, state: TrainState, epoch: int, history: dict[str, Any]) -> None:
    """Writes the state within `epoch`, and the metrics `(steps,)` of its steps so far, under `workdir/stopped`."""
    folder = workdir / "stopped" / str(int(state.step))
    history = {name: np.asarray(values).tolist() for name, values in history.items()}
    save_tree(folder, _items(state), {"epoch": epoch, "history": history})


def restore_stop(workdir: Path, like: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
    """(state, metrics of the steps so far) where a run was stopped in `epoch`; (`like`, {}) where none was.

    Raises:
      InputError: it is damaged, or of another model or optimiser.
    """
    folder = workdir / "stopped"
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()] if folder.is_dir() else []
    if not steps:
        return like, {}
    newest = folder / str(max(steps))
    with _readable(newest):
        record = ocp.metadata(newest.absolute()).custom_metadata
        if record["epoch"] != epoch:
            return like, {}
        state = _state_of(ocp.load(newest.absolute(), _abstract(_items(like))))
    return state, {name: np.asarray(values, np.float32) for name, values in record["history"].items()}


def remove(folder: Path) -> None:
    """Removes a folder that nothing needs any more, if it is there; of several processes the first does."""
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)


def _items(state: TrainState) -> dict[str, Any]:
    return {"variables": state.variables, "optimiser": {"step": state.step, "opt_state": state.opt_state}}


def _state_of(items: dict[str, Any]) -> TrainState:
    variables, optimiser = items["variables"], items["optimiser"]
    return TrainState(optimiser["step"], variables["params"], variables["batch_stats"], optimiser["opt_state"])


def save_variables(workdir: Path, variables: dict[str, Any]) -> None:
    """Writes `variables` as the only checkpoint of `workdir`, as epoch 0."""
    folder = (workdir / "checkpoints" / "0").absolute()
    with _disk_errors(folder):
        ocp.save_checkpointables(folder, {"variables": _untied(variables)})


def load_variables(workdir: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The newest variables under `workdir`; `like` gives their structure, shapes and dtypes.

    Raises:
      InputError: there is no checkpoint, or it is damaged, or of another model.
    """
    folder = workdir / "checkpoints"
    epochs = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()] if folder.is_dir() else []
    if not epochs:
        raise InputError(f"{workdir} holds no checkpoint; train one: python -m experiments.train --workdir={workdir}")
    newest = folder / str(max(epochs))
    with _readable(newest):
        return _untied(ocp.load_checkpointables(newest.absolute(), {"variables": _abstract(like)})["variables"])


def save_tree(path: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a pytree of arrays and a JSON record to the new folder `path`."""
    with _disk_errors(path):
        ocp.save(path.absolute(), _untied(tree), custom_metadata=metadata)


def load_tree(path: Path) -> tuple[Any, dict[str, Any]]:
    """(pytree of arrays as nested dicts, JSON record) from `save_tree`.

    Raises:
      InputError: nothing there, or damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path} does not exist")
    with _readable(path):
        record = ocp.metadata(path.absolute())
        return _untied(ocp.load(path.absolute(), _abstract(record.metadata))), record.custom_metadata


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
            name: ClassStatistics(layer["count"], Moments(**layer["mean"]), Moments(**layer["max"]))
            for name, layer in tree["layers"].items()
        }
        channels = Channels(groups, metadata["channels"]["head"], metadata["channels"]["features"])
        features = tree.get("features", jnp.zeros((0, 0))), tree.get("labels", jnp.zeros(0, jnp.int32))
        tail = tree.get("tail", {})
        return Statistics(layers, *features, channels, tuple(tail[str(number)] for number in range(len(tail))))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} holds no class statistics (no {error}); delete it and collect them again") from error


def _abstract(tree: Any) -> Any:
    """To restore to the devices of this machine, whatever machine it was written on."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole()), tree)


def _untied(tree: Any) -> Any:
    """On all devices in use, and tied to none where there is one: Orbax ties arrays to their device, and a step over
    these and others that are not tied would be compiled twice."""
    return place(jax.device_get(tree))


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise their own kinds for every sort of damage
        reason = " ".join(str(error).split())[:160]
        message = f"{folder} is damaged or belongs to another model; delete it or choose another workdir ({reason})"
        raise InputError(message) from error
