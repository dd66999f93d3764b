"""Shadow models: many models of one recipe, each on its own half of a pool of images, trained together.

Attacks that need a model's outputs on images that it was and was not trained on use them (`osp_jax/audit/lira.py`). A
set is trained once; an interrupted run resumes from its newest checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from osp_jax.audit.shadow.model_epochs import RunEpochs, choose_way, epochs_of_all, stacked
from osp_jax.audit.shadow.pool import check_number
from osp_jax.audit.shadow.sets import (
    Network,
    is_finished,
    set_record,
    shadow_folder,
    shadow_module,
    shadow_preparation,
    stacked_shapes,
)
from osp_jax.data.draws import host_generator
from osp_jax.data.sources import Split
from osp_jax.networks import init_variables
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import write_piece
from osp_jax.runtime.replacing import discard, remove_all_leftovers
from osp_jax.runtime.settings import validated
from osp_jax.runtime.workdir import check_writable
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.epoch import batch_sizes, in_batches
from osp_jax.training.loop import check_settings
from osp_jax.training.memory import check_memory
from osp_jax.training.progress import terminal_bar
from osp_jax.training.recipe import Recipe, make_recipe, penalty_weight
from osp_jax.training.state import TrainState
from osp_jax.training.step import is_traceable

_SHADOW_KEYS = 3  # `recipe.make_recipe` folds 0, 1 and 2 into the key of the same seed


class Start(NamedTuple):
    """A set before its first epoch: stacked `states`, image numbers `members` by model, keys `(N,)`, steps an epoch."""

    recipe: Recipe
    states: TrainState
    members: list[np.ndarray]
    order_keys: jax.Array
    step_keys: jax.Array
    steps: int


def train_shadows(
    config: ConfigDict,
    pool: Split,
    num_classes: int,
    keep: np.ndarray,
    folder: Path,
    *,
    exclude: Sequence[int] = (),
    network: Network | None = None,
    way: str | None = None,
    checkpoint_every: int = 5,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains a set of shadow models, resumes its training, or reads a finished one.

    The set is stored in `shadow_folder(...)`, with a `record.json` of its settings and epochs. All random numbers
    depend only on `config.seed`, the number of the model, epoch and step, so interruptions do not change the result;
    the way changes float rounding only.

    Args:
      keep: bool `(N, images)`, see `draw_keep`; row i holds the images of model i.
      folder: the folder of all sets.
      exclude: classes to leave out of all models.
      network: None: the one that `config.model` names.
      way: one of `model_epochs.WAYS`; None: `choose_way`.
      checkpoint_every: epochs between checkpoints; an interruption loses at most these.
      on_epoch: called after each epoch with its entry of `record.json`.

    Returns:
      variables, stacked along a leading axis N.

    Raises:
      InputError: an odd number of models or one below 4, a batch size above the images of the smallest model, no images
        to train on, unusable settings, a way that the devices do not support, no disk space, or a loss that is not
        finite.
    """
    if checkpoint_every < 1:
        raise InputError(f"checkpoint_every is {checkpoint_every}; give a positive number of epochs")
    config = validated(config)
    here = shadow_folder(config, pool, keep, folder, exclude, network)
    if is_finished(here):
        discard(here / "checkpoints")  # left by an interrupted run
        for place in (here, here / "models" / "checkpoints"):
            remove_all_leftovers(place)
        return checkpoint.load_variables(here / "models", stacked_shapes(config, pool, num_classes, len(keep), network))
    start = start_shadows(config, pool, num_classes, keep, exclude, network)
    traceable = is_traceable(start.recipe.step)
    if not traceable and way not in (None, "in turn"):
        raise InputError(f"with PyTorch's gradient (training.gradient) models train in turn, not {way}")
    way = way or (choose_way(len(keep)) if traceable else "in turn")
    run_epochs = epochs_of_all(way, start.recipe.step, pool, len(keep))
    check_writable(here, 5 * sum(leaf.nbytes for leaf in jax.tree.leaves(start.states)))
    record = set_record(here, config, pool, keep, exclude)
    states, epochs = start.states, config.training.epochs
    with checkpoint.training_checkpoints(here, checkpoint_every, 2) as checkpoints:
        done, states = checkpoint.restore_state(checkpoints, states)
        del record["epochs"][done:]
        with terminal_bar(f"{len(keep)} shadow models", done, epochs) as (progress, task):
            for epoch in range(done + 1, epochs + 1):
                begun = time.perf_counter()
                weight = jnp.float32(penalty_weight(config, epoch))
                parts = order_parts(start, epoch, config.training.batch_size, config.training.last_batch)
                states, metrics = _run(run_epochs, states, parts, start.step_keys, weight)
                _check_finite([metrics["loss"]], epoch)
                seconds = time.perf_counter() - begun
                means = {name: float(metrics[name].mean()) for name in ("loss", "accuracy")}
                record["epochs"].append({"epoch": epoch, **means, "seconds": seconds, "way": way})
                write_piece(here / "record.json", record)
                if epoch % checkpoint_every == 0 or epoch == epochs:
                    checkpoint.save_state(checkpoints, epoch, states, last=epoch == epochs)
                progress.update(task, advance=1, text=f"loss {means['loss']:.3f}")
                on_epoch(record["epochs"][-1])
    _check_finite(jax.tree.leaves(states.variables), epochs)
    variables = jax.tree.map(jnp.asarray, states.variables)
    checkpoint.save_variables(here / "models", variables)
    discard(here / "checkpoints")  # the optimiser's state is no longer needed
    return variables


# One set: its start and its epochs


def start_shadows(
    config: ConfigDict,
    pool: Split,
    num_classes: int,
    keep: np.ndarray,
    exclude: Sequence[int] = (),
    network: Network | None = None,
) -> Start:
    """Raises `InputError` as `train_shadows`."""
    check_number(len(keep))
    if config.training.start_from:
        raise InputError(
            "the recipe starts from another network (training.start_from), so its config is not the whole recipe; "
            "take one that was trained from random parameters"
        )
    image_shape = pool.images.shape[1:]
    check_settings(config, image_shape)
    allowed = ~np.isin(pool.labels, list(exclude))
    if not allowed.any():
        raise InputError("no example is left to train shadow models on; leave out fewer classes")
    members = [np.flatnonzero(row & allowed).astype(np.int32) for row in keep]
    smallest = min(map(len, members))
    steps = len(batch_sizes(smallest, config.training.batch_size, config.training.last_batch))
    if not steps:
        raise InputError(
            f"training.batch_size {config.training.batch_size} exceeds the {smallest} examples of the smallest shadow "
            "model; each has half of the pool, so use a smaller batch"
        )
    model = shadow_module(config, num_classes, image_shape, network)
    check_memory(model, image_shape, config.training.batch_size, len(keep))
    recipe = make_recipe(config, model, image_shape, shadow_preparation(config, pool), steps)
    base = jax.random.fold_in(jax.random.key(config.seed), _SHADOW_KEYS)
    by_model = [jax.random.fold_in(base, number) for number in range(len(keep))]
    init_keys, order_keys, step_keys = (
        jnp.stack([jax.random.fold_in(key, purpose) for key in by_model]) for purpose in range(3)
    )
    # The initial state of an optimiser does not depend on the parameters.
    states = [recipe.start.replace(**init_variables(model, image_shape, key)) for key in init_keys]
    return Start(recipe, stacked(states), members, order_keys, step_keys, steps)


def epoch_orders(start: Start, epoch: int, batch_size: int) -> np.ndarray:
    """int32 `(N, steps, batch)`: a random order of each model's own images, equally many for all."""
    return order_parts(start, epoch, batch_size, "drop")[0]


def order_parts(start: Start, epoch: int, batch_size: int, last_batch: str) -> list[np.ndarray]:
    """The same in parts: the full batches and, if `last_batch` is 'keep', one with the remaining images."""
    most, orders = min(map(len, start.members)), []
    for key, members in zip(start.order_keys, start.members, strict=True):
        shuffled = host_generator(jax.random.fold_in(key, epoch)).permutation(members)[:most]
        orders.append(in_batches(shuffled, batch_size, last_batch))
    return [np.stack(part) for part in zip(*orders, strict=True) if len(part[0])]


def _run(run: RunEpochs, states: TrainState, parts: list[np.ndarray], *arguments: Any) -> Any:
    """One epoch of all models over `parts`; the metrics `(N,)` are means over their images."""
    found, weights = [], [part[0].size for part in parts]
    for part in parts:
        states, metrics = run(states, part, *arguments)
        found.append(metrics)
    return states, found[0] if len(found) == 1 else {
        name: np.average([metrics[name] for metrics in found], axis=0, weights=weights) for name in found[0]
    }


def _check_finite(values: Sequence[Any], epoch: int) -> None:
    """Raises `InputError` if one of the arrays `(N, ...)` is not finite."""
    broken = np.flatnonzero(np.any([~np.isfinite(v).reshape(len(v), -1).all(1) for v in map(np.asarray, values)], 0))
    if len(broken):
        raise InputError(
            f"shadow model {broken[0]} is not finite in epoch {epoch}; lower training.learning_rate or "
            "orthogonality.weight of the recipe"
        )
