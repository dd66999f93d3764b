"""Orbax checkpoints of variables, optimiser state and class statistics; the only file that touches Orbax.

A workdir holds `checkpoints/<epoch>/` with the items `variables` and, while training goes on, `optimiser`, and
`statistics/`. Each is written under a temporary name, gets its `SHA256SUMS` last, and is then renamed into place: what
has its final name is whole, and is compared with its checksums whenever it is read.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import to_state_dict
from orbax.checkpoint import v1 as ocp

from osp_jax.activations import ClassStatistics, Moments, Statistics
from osp_jax.distributed import is_first, place, wait_for_all, whole
from osp_jax.errors import InputError
from osp_jax.integrity import check_sums, write_sums
from osp_jax.models.channels import ChannelGroup, Channels, Writer
from osp_jax.replacing import building, discard, remove_all_leftovers, write_text
from osp_jax.system_errors import code_of
from osp_jax.system_errors import system_errors as _disk_errors
from osp_jax.training.state import TrainState


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of a training run: at epochs that `every` divides, of which the newest `keep` are kept.

    One save at a time runs in the background; `pending` is its future.
    """

    folder: Path
    every: int
    keep: int
    worker: ThreadPoolExecutor
    pending: Future | None = None


@contextmanager
def training_checkpoints(workdir: Path, every: int, keep: int) -> Iterator[Checkpoints]:
    """The checkpoints of a training run in `workdir/checkpoints`; on leaving, a save under way is finished."""
    folder = (workdir / "checkpoints").absolute()
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        remove_all_leftovers(folder)
        _remove_unfinished(folder)
        _prune(folder, keep)
    wait_for_all("the checkpoints are tidied up")
    with _disk_errors(folder), ThreadPoolExecutor(1) as worker:
        checkpoints = Checkpoints(folder, every, keep, worker)
        try:
            yield checkpoints
        finally:
            _finish(checkpoints)
        wait_for_all("the last checkpoint is written")


def save_state(
    checkpoints: Checkpoints, epoch: int, state: TrainState, *, last: bool, attached: Mapping[str, str] = {}
) -> None:
    """Saves in the background where `epoch` is due or `last`; returns once the state is copied.

    Args:
      attached: text files to keep in the checkpoint, by name; `attached_to` reads them.
    """
    if epoch % checkpoints.every and not last:
        return
    _finish(checkpoints)
    # A donated buffer could be overwritten while the background thread still reads it.
    state = jax.tree.map(jnp.copy, state)
    with ExitStack() as stack:
        content = stack.enter_context(building(checkpoints.folder / str(epoch)))
        response = ocp.save_checkpointables_async(content, _items(state))
        rest = stack.pop_all()

    def complete() -> None:
        with rest:
            response.result()
            for name, text in attached.items():
                write_text(content / name, text)
            write_sums(content)
        _prune(checkpoints.folder, checkpoints.keep)

    checkpoints.pending = checkpoints.worker.submit(complete)


def newest_epoch(checkpoints: Checkpoints) -> int | None:
    """The epoch of the newest checkpoint; None where there is none."""
    _finish(checkpoints)
    return max(_epochs(checkpoints.folder), default=None)


def restore_state(checkpoints: Checkpoints, like: TrainState) -> tuple[int, TrainState]:
    """(epochs done, state) of the newest checkpoint; (0, `like`) where there is none.

    Raises:
      InputError: the newest checkpoint is damaged, or of another model or optimiser.
    """
    epoch = newest_epoch(checkpoints)
    if epoch is None:
        return 0, like
    folder = checkpoints.folder / str(epoch)
    remedy = "and run the same command again, which goes on from the checkpoint before"
    with _readable(folder, checkpoints.folder.parent, f"restore it, or delete {folder} {remedy}"):
        items = ocp.load_checkpointables(folder, _abstract(_items(like)))
    return epoch, _state_of(items)


def attached_to(checkpoints: Checkpoints, epoch: int, name: str) -> str | None:
    """A text file that `save_state` kept in the checkpoint of `epoch`, which was compared with its checksums before."""
    path = checkpoints.folder / str(epoch) / name
    return path.read_text(encoding="utf-8") if path.exists() else None


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
    steps = _epochs(folder)
    if not steps:
        return like, {}
    newest = folder / str(max(steps))
    with _readable(newest, workdir, f"restore it, or delete {newest} and run the same command again"):
        record = ocp.metadata(newest.absolute()).custom_metadata
        items = _abstract(_items(like))
        items = ocp.load(newest.absolute(), items) if record["epoch"] == epoch else None
    if items is None:
        return like, {}
    return _state_of(items), {name: np.asarray(values, np.float32) for name, values in record["history"].items()}


def remove_stops(workdir: Path) -> None:
    """Removes the states under `workdir/stopped`, which a finished run does not need."""
    for step in _epochs(workdir / "stopped"):
        discard(workdir / "stopped" / str(step))
    if is_first() and (workdir / "stopped").is_dir():
        remove_all_leftovers(workdir / "stopped")
        if not any((workdir / "stopped").iterdir()):
            (workdir / "stopped").rmdir()


def _finish(checkpoints: Checkpoints) -> None:
    """Waits for the save under way, and raises what it raised."""
    pending, checkpoints.pending = checkpoints.pending, None
    if pending is not None:
        pending.result()


def _epochs(folder: Path) -> list[int]:
    """Sorted numbers that are names in `folder`: of checkpoints, or of steps."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def _prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the newest `keep`."""
    for epoch in _epochs(folder)[:-keep]:
        discard(folder / str(epoch))


def _remove_unfinished(folder: Path) -> None:
    """Removes what Orbax was writing when a run of an older version was killed."""
    for path in folder.glob("*.orbax-checkpoint-tmp*"):
        discard(path)


def _items(state: TrainState) -> dict[str, Any]:
    return {"variables": state.variables, "optimiser": {"step": state.step, "opt_state": state.opt_state}}


def _state_of(items: dict[str, Any]) -> TrainState:
    variables, optimiser = items["variables"], items["optimiser"]
    return TrainState(optimiser["step"], variables["params"], variables["batch_stats"], optimiser["opt_state"])


def save_variables(workdir: Path, variables: dict[str, Any]) -> None:
    """Writes `variables` as the only checkpoint of `workdir`, as epoch 0."""
    items = {"variables": _untied(variables)}
    _save(workdir / "checkpoints" / "0", lambda folder: ocp.save_checkpointables(folder, items))


def load_variables(workdir: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The newest variables under `workdir`; `like` gives their structure, shapes and dtypes.

    Raises:
      InputError: there is no checkpoint, or it is damaged, or of another model.
    """
    newest = workdir / "checkpoints" / str(last_epoch(workdir))
    remedy = f"restore it, or delete {newest} and make it again with the command that wrote {workdir}"
    with _readable(newest, workdir, remedy):
        items = ocp.load_checkpointables(newest.absolute(), {"variables": _abstract(like)})
    return _untied(items["variables"])


def last_epoch(workdir: Path) -> int:
    """The epoch of the newest checkpoint of `workdir`; 0 where it was not made by training.

    Raises:
      InputError: there is none.
    """
    epochs = _epochs(workdir / "checkpoints")
    if not epochs:
        raise InputError(f"{workdir} holds no checkpoint; train one: python -m experiments.train --workdir={workdir}")
    return max(epochs)


def save_tree(path: Path, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes a pytree of arrays and a JSON record to the new folder `path`."""
    tree = _untied(tree)
    _save(path, lambda folder: ocp.save(folder, tree, custom_metadata=metadata))


def _save(path: Path, save: Callable[[Path], None]) -> None:
    """Calls `save` with the path of a folder to make, which is moved to `path` when it is whole."""
    path = path.absolute()
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors(path), building(path) as folder:
        save(folder)
        wait_for_all("the arrays are written")
        write_sums(folder)
    wait_for_all("the arrays are in their place")


def load_tree(path: Path) -> tuple[Any, dict[str, Any]]:
    """(pytree of arrays as nested dicts, JSON record) from `save_tree`.

    Raises:
      InputError: nothing there, or damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path} does not exist")
    with _readable(path, path.parent, f"restore it, or delete {path} and collect it again"):
        record = ocp.metadata(path.absolute())
        tree = ocp.load(path.absolute(), _abstract(record.metadata))
    return _untied(tree), record.custom_metadata


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


def _abstract(tree: Any) -> Any:
    """To restore to the devices of this machine, whatever machine it was written on."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole()), tree)


def _untied(tree: Any) -> Any:
    """On all devices in use, and tied to none where there is one: Orbax ties arrays to their device, and a step over
    these and others that are not tied would be compiled twice."""
    return place(jax.device_get(tree))


@contextmanager
def _readable(folder: Path, workdir: Path, remedy: str) -> Iterator[None]:
    """Compares `folder` with its checksums, and raises what Orbax raises in the block as an `InputError`.

    Only errors that a mismatch or damage causes are taken: errors of our own code keep their traceback.
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


# What Orbax and TensorStore raise for files without checksums that are damaged, by the kinds of damage that we tried.
_DAMAGE = (ValueError, KeyError, OSError, RuntimeError)
