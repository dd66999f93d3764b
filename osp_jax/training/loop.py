"""A resumable training run from a config: epochs, metrics, checkpoints."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data import stream
from osp_jax.data.dataset import Dataset, describe_dataset
from osp_jax.data.kinds import channels_of, is_text
from osp_jax.data.splits import first_alike, hold_out, parse_classes, split_by_class
from osp_jax.data.stored import StoredImages
from osp_jax.forward import predict_logits
from osp_jax.interop.linen import from_linen
from osp_jax.networks import build_model
from osp_jax.runtime import records
from osp_jax.runtime.distributed import check_same, data_devices, is_first, place, termination
from osp_jax.runtime.errors import InputError, Stopped, unknown
from osp_jax.runtime.settings import validated
from osp_jax.runtime.workdir import (
    TOKENIZER,
    check_writable,
    claim_workdir,
    close_training,
    open_training,
    read_record,
    write_text,
)
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.checkpoints import check_finished
from osp_jax.training.epoch import batch_sizes, epoch_order, epoch_parts, make_epoch, make_loop, run_parts
from osp_jax.training.memory import check_memory
from osp_jax.training.orthogonality import gram_errors
from osp_jax.training.progress import progress_bar
from osp_jax.training.recipe import Recipe, image_moments, make_recipe, penalty_weight, preparation_of
from osp_jax.training.schedules import piecewise
from osp_jax.training.state import TrainState


def training_indices(config: ConfigDict, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices into the training split, int32, without the excluded classes."""
    labels = dataset.train.labels
    share = 0.0 if dataset.test_held_out else config.data.validation
    train, validation = hold_out(labels, share, config.seed, first_alike(dataset.train.images))
    excluded = parse_classes(config.data.exclude, dataset.class_names)
    retained, _ = split_by_class(labels, excluded)
    if not len(retained):
        raise InputError("data.exclude leaves no class to train on; exclude fewer")
    return np.intersect1d(train, retained), np.intersect1d(validation, retained)


def train(
    config: ConfigDict, dataset: Dataset, workdir: Path, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Trains the model of `config` in `workdir`, or resumes its training.

    Writes `config.json`, `metrics.jsonl` (one line per epoch) and `checkpoints/`. All random numbers depend only on
    `config.seed`, the epoch and the step, so an interrupted run reproduces the uninterrupted one.

    Args:
      on_epoch: called after each epoch with its line of `metrics.jsonl`.

    Returns:
      the final variables, `{'params', 'batch_stats'}`.

    Raises:
      Stopped: SIGTERM arrived; everything that the same call needs to resume is saved.
      InputError: unusable settings, a workdir of another run, a start that saw an excluded class, a damaged checkpoint,
        no disk space, or a loss that is not finite (the last good checkpoint is kept).
    """
    config = validated(config)
    check_same(json.dumps(config.to_dict(), sort_keys=True), "settings")
    check_settings(config, dataset.image_shape)
    settings = config.training
    train_indices, validation_indices = training_indices(config, dataset)
    sizes = batch_sizes(len(train_indices), settings.batch_size, settings.last_batch)
    steps = len(sizes)
    if not steps:
        raise InputError(f"training.batch_size {settings.batch_size} exceeds the {len(train_indices)} training images")

    if settings.batch_size % (devices := data_devices()):
        raise InputError(
            f"training.batch_size {settings.batch_size} cannot be split over {devices} devices; choose a multiple"
        )
    if sizes[-1] % devices:
        raise InputError(
            f"the last batch of an epoch, of {sizes[-1]} images, cannot be split over {devices} devices; "
            "set training.last_batch to 'drop'"
        )

    model = build_model(config, dataset.num_classes, dataset.image_shape)
    check_memory(model, dataset.image_shape, settings.batch_size)
    mean, std = image_moments(config, dataset.train.images, train_indices)
    recipe = make_recipe(config, model, dataset.image_shape, preparation_of(config, mean, std), steps)
    state = recipe.start
    if settings.start_from:
        _check_start(Path(settings.start_from), config.data.exclude, dataset.class_names)
        state = state.replace(**checkpoint.load_variables(Path(settings.start_from), state.variables))
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    check_writable(workdir, (config.checkpoint.keep + 2) * state_bytes)
    claim_workdir(workdir, config, describe_dataset(dataset, mean, std))
    if dataset.tokenizer and is_first():
        write_text(workdir / TOKENIZER, dataset.tokenizer)
    streamed = isinstance(dataset.train.images, StoredImages)
    run_epoch = (_streamed if streamed else _in_memory)(config, dataset, train_indices, recipe)
    with (
        termination() as asked,
        checkpoint.training_checkpoints(workdir, config.checkpoint.every, config.checkpoint.keep) as checkpoints,
    ):
        done, state = checkpoint.restore_state(checkpoints, state)
        if done < settings.epochs:
            open_training(workdir)
        log = _restore_metrics(
            workdir / "metrics.jsonl", done, checkpoint.attached_to(checkpoints, done, "metrics.jsonl")
        )
        record = (workdir / "config.json").read_text(encoding="utf-8")
        with progress_bar(done * steps, settings.epochs * steps, settings.batch_size) as meter:
            for epoch in range(done + 1, settings.epochs + 1):
                start = time.perf_counter()
                weight = penalty_weight(config, epoch)
                # A run is stopped within the epoch that follows its newest checkpoint.
                state, before = checkpoint.restore_stop(workdir, state, epoch) if epoch == done + 1 else (state, {})
                first = len(before.get("loss", ()))
                state, history = run_epoch(state, epoch, first, jnp.float32(weight), on_step=meter, stop=asked)
                seconds, taken = time.perf_counter() - start, len(history["loss"])
                history = {name: np.concatenate([before.get(name, v[:0]), v]) for name, v in history.items()}
                if first + taken < steps:
                    checkpoint.save_stop(workdir, state, epoch, history)
                    raise Stopped(f"stopped in epoch {epoch}; run the same command to resume")
                metrics = {name: _mean(values, sizes) for name, values in history.items()}
                _check_finite(state, metrics["loss"], epoch, checkpoints)
                metrics |= {"penalty_weight": weight, "learning_rate": float(recipe.rate(state.step - 1))}
                if len(validation_indices):
                    split, about = dataset.train, {"mean": mean, "std": std, "class_names": dataset.class_names}
                    logits = predict_logits(from_linen(model, state.variables, **about), split, validation_indices)
                    right = logits.argmax(-1) == split.labels[validation_indices]
                    metrics["validation_accuracy"] = float(right.mean())
                metrics["gram_error"] = {path: float(error) for path, error in gram_errors(state.params).items()}
                metrics |= {"images_per_second": int(sizes[first:].sum()) / seconds, "seconds": seconds}
                metrics = {"epoch": epoch, "step": int(state.step), **metrics}
                log += _append(workdir / "metrics.jsonl", metrics)
                if on_epoch:
                    on_epoch(metrics)
                last, stopping = epoch == settings.epochs, asked()
                attached = {"config.json": record, "metrics.jsonl": log}
                checkpoint.save_state(checkpoints, epoch, state, last=last or stopping, attached=attached)
                _say(epoch, settings.epochs, metrics)
                if stopping and not last:
                    raise Stopped(f"stopped after epoch {epoch}; run the same command to resume")
    checkpoint.remove_stops(workdir)
    close_training(workdir)
    return state.variables


def _in_memory(config: ConfigDict, dataset: Dataset, train_indices: np.ndarray, recipe: Recipe) -> Callable[..., Any]:
    """`run(state, epoch, first, penalty_weight, on_step, stop)`: an epoch from its step `first`, as `make_epoch`."""
    images, labels, indices = place((dataset.train.images, dataset.train.labels, train_indices))
    run, settings = make_epoch(recipe.step), config.training

    def run_epoch(state: TrainState, epoch: int, first: int, weight: jax.Array, **hooks: Callable) -> Any:
        parts = epoch_parts(indices, recipe.order_key, epoch, settings.batch_size, settings.last_batch)
        return run_parts(run, state, parts, images, labels, recipe.step_key, weight, first=first, **hooks)

    return run_epoch


def _streamed(config: ConfigDict, dataset: Dataset, train_indices: np.ndarray, recipe: Recipe) -> Callable[..., Any]:
    """Like `_in_memory`, in the same order, with batches that are read from files when needed."""
    run, indices = make_loop(recipe.batch_step), place(train_indices)
    drawn = {"random_crops": config.data.crop == "resized", "seed": config.seed}

    def run_epoch(state: TrainState, epoch: int, first: int, weight: jax.Array, **hooks: Callable) -> Any:
        order = np.asarray(epoch_order(indices, recipe.order_key, epoch, config.training.batch_size))
        batches = stream.epoch_batches(dataset.train, order, first=first, epoch=epoch, **drawn)
        with closing(batches):
            return run(state, batches, recipe.step_key, weight, **hooks)

    return run_epoch


def check_settings(config: ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raises `InputError` for settings that cannot be used with images of this shape, before anything is written."""
    validated(config)
    if is_text(image_shape):
        _check_text(config.data)
    elif config.data.word_dropout:
        raise InputError("data.word_dropout leaves out tokens of texts; set it to 0 for images")
    elif config.data.pad >= min(image_shape[:2]):
        raise InputError(f"data.pad is {config.data.pad}; the images have {image_shape[0]}x{image_shape[1]} pixels")
    _check_streaming(config.data, image_shape)
    if config.data.stream and config.training.last_batch == "keep":
        raise InputError(
            "training.last_batch 'keep' needs images in memory; leave data.stream out, or set it to 'drop'"
        )
    piecewise(config.orthogonality.schedule, 0)


def _check_text(data: ConfigDict) -> None:
    """Raises `InputError` for settings that apply to images only."""
    if given := [name for name in ("pad", "flip", "cutout", "mean", "std", "stream", "crop") if data[name]]:
        raise InputError(f"data.{given[0]} is {data[given[0]]} and the data are texts; set it to {_NONE[given[0]]}")


_NONE = {"pad": "0", "flip": "False", "cutout": "0", "mean": "()", "std": "()", "stream": "False", "crop": "''"}


def _check_streaming(data: ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raises `InputError` for inconsistent settings of streaming and normalisation."""
    if data.crop not in ("", "resized"):
        raise unknown("data.crop", data.crop, ("resized", "'' (none)"))
    if data.stream:
        stream.require_grain()
    elif data.crop:
        raise InputError("data.crop crops images as they are read from their files; set data.stream, or leave it empty")
    channels = channels_of(image_shape)
    for name in ("mean", "std"):
        if len(data[name]) not in (0, channels):
            raise InputError(f"data.{name} is {data[name]}; give a number for each of {channels} channels, or ()")
    if bool(data.mean) != bool(data.std):
        raise InputError("data.mean and data.std go together; give both, or neither")


def _mean(values: np.ndarray, sizes: np.ndarray) -> float:
    """The mean over the images of all steps `(steps,)`."""
    return float(values.mean() if sizes[-1] == sizes[0] else np.average(values, weights=sizes))


def _check_start(workdir: Path, exclude: str, class_names: Sequence[str]) -> None:
    """Raises `InputError` if the network to start from saw a class that this run excludes, or forgot one."""
    record = read_record(workdir)
    if (workdir / "unlearn.json").exists():
        raise InputError(
            f"{workdir} was made to forget classes, which a training could restore; start from a network that "
            "experiments.train wrote (training.start_from)"
        )
    if record.get("network"):
        raise InputError(
            f"{workdir} holds an imported network, and a training can start only from a network that "
            "experiments.train wrote (training.start_from)"
        )
    check_finished(workdir, record)
    seen = record["config"]["data"]["exclude"]
    missing = set(parse_classes(exclude, class_names)) - set(parse_classes(seen, class_names))
    if missing:
        names = ", ".join(class_names[c] for c in sorted(missing))
        raise InputError(f"{workdir} was trained on {names}; leave it out of that training too (data.exclude)")


def _restore_metrics(path: Path, done: int, attached: str | None) -> str:
    """Restores the log to its content after the epoch `done`, from the copy in the checkpoint, and returns it."""
    found = path.read_bytes() if path.exists() else b""
    if attached is None:  # no checkpoint yet, or one of an older version
        attached = "".join(_lines_until(done, found, path)) if done else ""
    if attached.encode() != found:
        if is_first() and found and not found.startswith(attached.encode()):
            print(f"warning: {path} is damaged; it is restored from the checkpoint of epoch {done}", file=sys.stderr)
        write_text(path, attached)
    return attached


def _lines_until(done: int, log: bytes, path: Path) -> Iterator[str]:
    lines = log.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            if records.checked(records.parse_json(line, path), records.Epoch, path)["epoch"] <= done:
                yield line.decode("utf-8") + "\n"
        except InputError:
            if number < len(lines):
                raise
            # The line that was being written when the run was killed is dropped.


def _append(path: Path, content: dict[str, Any]) -> str:
    """Adds a line to the log, and returns it."""
    line = json.dumps(content, allow_nan=False) + "\n"
    if is_first():
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    return line


def _check_finite(state: TrainState, loss: float, epoch: int, checkpoints: checkpoint.Checkpoints) -> None:
    if np.isfinite(loss) and all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.variables)):
        return
    done, workdir = checkpoint.newest_epoch(checkpoints), checkpoints.folder.parent
    kept = "no checkpoint was written yet" if done is None else f"the checkpoint of epoch {done} is kept"
    raise InputError(
        f"the loss is not finite in epoch {epoch}; lower --config.training.learning_rate or "
        f"--config.orthogonality.weight and use another --workdir ({kept} in {workdir})"
    )


def _say(epoch: int, epochs: int, metrics: dict[str, Any]) -> None:
    if not is_first():
        return
    held_out = f"  validation {metrics['validation_accuracy']:.1%}" if "validation_accuracy" in metrics else ""
    print(
        f"epoch {epoch}/{epochs}  loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.1%}{held_out}  "
        f"penalty {metrics['penalty']:.3g}  {metrics['images_per_second']:,.0f} images/s",
        file=sys.stderr,
    )
