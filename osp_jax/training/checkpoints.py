"""Orbax checkpoints of variables and optimiser state.

A workdir holds `checkpoints/<epoch>/` with the items `variables` and, during training, `optimiser`, and `statistics/`.
Each is written under a temporary name, gets its `SHA256SUMS` last, and is then renamed: a folder with its final name is
complete, and every read verifies its checksums.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from osp_jax.runtime.arrays import abstract, readable, save_as, save_tree, uncommitted
from osp_jax.runtime.distributed import is_first, wait_for_all
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import write_sums
from osp_jax.runtime.replacing import building, discard, remove_all_leftovers, write_text
from osp_jax.runtime.system_errors import system_errors as _disk_errors
from osp_jax.training.state import TrainState


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of a training run, at epochs that `every` divides; the newest `keep` are kept.

    One save at a time runs in the background; `pending` is its future.
    """

    folder: Path
    every: int
    keep: int
    worker: ThreadPoolExecutor
    pending: Future | None = None


@contextmanager
def training_checkpoints(workdir: Path, every: int, keep: int) -> Iterator[Checkpoints]:
    """The checkpoints of a training run in `workdir/checkpoints`; on exit, a pending save is finished."""
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
    """Saves in the background if `epoch` is due or `last`; returns once the state is copied.

    Args:
      attached: text files to store in the checkpoint, by name; `attached_to` reads them.
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
    """The epoch of the newest checkpoint; None if there is none."""
    _finish(checkpoints)
    return max(_epochs(checkpoints.folder), default=None)


def restore_state(checkpoints: Checkpoints, like: TrainState) -> tuple[int, TrainState]:
    """(number of finished epochs, state) of the newest checkpoint; (0, `like`) if there is none.

    Raises:
      InputError: the newest checkpoint is damaged, or belongs to another model or optimiser.
    """
    epoch = newest_epoch(checkpoints)
    if epoch is None:
        return 0, like
    folder = checkpoints.folder / str(epoch)
    remedy = "and run the same command again, which resumes from the checkpoint before"
    with readable(folder, checkpoints.folder.parent, f"restore it, or delete {folder} {remedy}"):
        items = ocp.load_checkpointables(folder, abstract(_items(like)))
    return epoch, _state_of(items)


def attached_to(checkpoints: Checkpoints, epoch: int, name: str) -> str | None:
    """A text file stored in the checkpoint of `epoch`, whose checksums have been verified."""
    path = checkpoints.folder / str(epoch) / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def save_stop(workdir: Path, state: TrainState, epoch: int, history: dict[str, Any]) -> None:
    """Writes the state within `epoch`, and the metrics `(steps,)` of its steps so far, to `workdir/stopped`."""
    folder = workdir / "stopped" / str(int(state.step))
    history = {name: np.asarray(values).tolist() for name, values in history.items()}
    save_tree(folder, _items(state), {"epoch": epoch, "history": history})


def restore_stop(workdir: Path, like: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
    """(state, metrics of the steps so far) of a run that was stopped in `epoch`; (`like`, {}) if none was.

    Raises:
      InputError: it is damaged, or belongs to another model or optimiser.
    """
    folder = workdir / "stopped"
    steps = _epochs(folder)
    if not steps:
        return like, {}
    newest = folder / str(max(steps))
    with readable(newest, workdir, f"restore it, or delete {newest} and run the same command again"):
        record = ocp.metadata(newest.absolute()).custom_metadata
        items = abstract(_items(like))
        items = ocp.load(newest.absolute(), items) if record["epoch"] == epoch else None
    if items is None:
        return like, {}
    return _state_of(items), {name: np.asarray(values, np.float32) for name, values in record["history"].items()}


def remove_stops(workdir: Path) -> None:
    """Removes the states in `workdir/stopped`, which a finished run does not need."""
    for step in _epochs(workdir / "stopped"):
        discard(workdir / "stopped" / str(step))
    if is_first() and (workdir / "stopped").is_dir():
        remove_all_leftovers(workdir / "stopped")
        if not any((workdir / "stopped").iterdir()):
            (workdir / "stopped").rmdir()


def _finish(checkpoints: Checkpoints) -> None:
    """Waits for the pending save, and raises its exception, if any."""
    pending, checkpoints.pending = checkpoints.pending, None
    if pending is not None:
        pending.result()


def _epochs(folder: Path) -> list[int]:
    """Sorted numeric names in `folder`, of checkpoints or steps."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def _prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints except the newest `keep`."""
    for epoch in _epochs(folder)[:-keep]:
        discard(folder / str(epoch))


def _remove_unfinished(folder: Path) -> None:
    """Removes the unfinished folders of Orbax from an interrupted run of an older version."""
    for path in folder.glob("*.orbax-checkpoint-tmp*"):
        discard(path)


def _items(state: TrainState) -> dict[str, Any]:
    return {"variables": state.variables, "optimiser": {"step": state.step, "opt_state": state.opt_state}}


def _state_of(items: dict[str, Any]) -> TrainState:
    variables, optimiser = items["variables"], items["optimiser"]
    return TrainState(optimiser["step"], variables["params"], variables["batch_stats"], optimiser["opt_state"])


def save_variables(workdir: Path, variables: dict[str, Any]) -> None:
    """Writes `variables` as the only checkpoint of `workdir`, with epoch 0."""
    items = {"variables": uncommitted(variables)}
    save_as(workdir / "checkpoints" / "0", lambda folder: ocp.save_checkpointables(folder, items))


def load_variables(workdir: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The newest variables of `workdir`; `like` gives their structure, shapes and dtypes.

    Raises:
      InputError: there is no checkpoint, or it is damaged or belongs to another model.
    """
    newest = workdir / "checkpoints" / str(last_epoch(workdir))
    remedy = f"restore it, or delete {newest} and make it again with the command that wrote {workdir}"
    with readable(newest, workdir, remedy):
        items = ocp.load_checkpointables(newest.absolute(), {"variables": abstract(like)})
    return uncommitted(items["variables"])


def last_epoch(workdir: Path) -> int:
    """The epoch of the newest checkpoint of `workdir`; 0 if training did not write it.

    Raises:
      InputError: there is no checkpoint.
    """
    epochs = _epochs(workdir / "checkpoints")
    if not epochs:
        raise InputError(f"{workdir} holds no checkpoint; train one: python -m experiments.train --workdir={workdir}")
    return max(epochs)


def check_finished(workdir: Path, record: dict[str, Any]) -> None:
    """Raises `InputError` if the training of a workdir with the `config.json` `record` is not finished."""
    done, epochs = last_epoch(workdir), record["config"]["training"]["epochs"]
    if 0 < done < epochs:  # the checkpoint of an unlearned model has epoch 0
        raise InputError(
            f"{workdir} is trained for {done} of {epochs} epochs; run the same experiments.train again until it ends"
        )
