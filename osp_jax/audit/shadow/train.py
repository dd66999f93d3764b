"""Shadow models: many models of one recipe, each on its own half of a pool of images, trained together.

Attacks that need a model's outputs on images that it was and was not trained on use them (`osp_jax/audit/lira.py`). A
set has its own folder, named by what determines it: the recipe, the pool, the halves, and the excluded classes. It is
trained once; an interrupted run resumes from its newest checkpoint.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.audit.shadow.model_epochs import RunEpochs, choose_way, epochs_of_all, stacked
from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.data.sources import Dataset, Split
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import build_model, init_variables, variable_shapes
from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.replacing import discard, remove_all_leftovers
from osp_jax.runtime.settings import validated
from osp_jax.runtime.workdir import check_writable
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.epoch import batch_sizes, in_batches
from osp_jax.training.loop import check_settings
from osp_jax.training.memory import check_memory
from osp_jax.training.progress import terminal_bar
from osp_jax.training.recipe import Recipe, image_moments, make_recipe, penalty_weight, preparation_of
from osp_jax.training.state import TrainState
from osp_jax.training.step import is_traceable

_SHADOW_KEYS = 3  # `recipe.make_recipe` folds 0, 1 and 2 into the key of the same seed


class Shadows(NamedTuple):
    """A finished set: a model whose variables are stacked along a leading axis N, and its training data.

    Shadow model i was trained on the images `keep[i]` of `pool`, bool `(N, pool)`, without the classes `exclude`.
    `folder` holds the set, and may hold data derived from it.
    """

    model: Model
    config: ConfigDict
    pool: Split
    keep: np.ndarray
    exclude: tuple[int, ...]
    preparation: Preparation
    folder: Path


class Network(NamedTuple):
    """A network from outside `osp_jax.networks`: its module, and an identifier, such as a checksum."""

    module: nn.Module
    digest: str


class Start(NamedTuple):
    """A set before its first epoch: stacked `states`, image numbers `members` by model, keys `(N,)`, steps an epoch."""

    recipe: Recipe
    states: TrainState
    members: list[np.ndarray]
    order_keys: jax.Array
    step_keys: jax.Array
    steps: int


def shadow_pool(dataset: Dataset, train_indices: np.ndarray) -> Split:
    """The pool of images for shadow models: the original's training images, then the test images.

    The latter stand for an attacker's own data; without them the original would have seen every image of a forgotten
    class. Classes that the original was never trained on are left out.
    """
    train, test = dataset.train, dataset.test
    known = np.isin(test.labels, np.unique(train.labels[train_indices]))
    return Split(
        np.concatenate([train.images[train_indices], test.images[known]]),
        np.concatenate([train.labels[train_indices], test.labels[known]]),
    )


def draw_keep(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Which of `number` shadow models is trained on which image: bool `(number, images)`.

    Every image is in exactly half of them, and all have the same number of images of each class, up to one. Carlini et
    al. (S&P 2022) draw a random half for each image; this draw is balanced.

    Args:
      labels: `(images,)`.

    Raises:
      InputError: an odd number, or one below 4.
    """
    _check_number(number)
    rng = np.random.default_rng(seed)
    keep = rng.permuted(np.arange(number)[:, None] % 2 == np.zeros((1, len(labels))), axis=0)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        counts = keep[:, members].sum(1)
        while counts.max() - counts.min() > 1:
            fullest, emptiest = counts.argmax(), counts.argmin()
            movable = members[keep[fullest, members] & ~keep[emptiest, members]]
            moved = rng.choice(movable, (counts[fullest] - counts[emptiest]) // 2, replace=False)
            keep[fullest, moved], keep[emptiest, moved] = False, True
            counts[fullest] -= len(moved)
            counts[emptiest] += len(moved)
    return keep


def shadow_preparation(config: ConfigDict, pool: Split) -> Preparation:
    """Normalisation and augmentation of all shadow models on a pool; models without a class share it, as `retrain`."""
    return preparation_of(config, *image_moments(config, pool.images, np.arange(len(pool.images))))


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
    if _is_finished(here):
        discard(here / "checkpoints")  # left by an interrupted run
        for place in (here, here / "models" / "checkpoints"):
            remove_all_leftovers(place)
        return checkpoint.load_variables(
            here / "models", _stacked_shapes(config, pool, num_classes, len(keep), network)
        )
    start = start_shadows(config, pool, num_classes, keep, exclude, network)
    traceable = is_traceable(start.recipe.step)
    if not traceable and way not in (None, "in turn"):
        raise InputError(f"with PyTorch's gradient (training.gradient) models train in turn, not {way}")
    way = way or (choose_way(len(keep)) if traceable else "in turn")
    run_epochs = epochs_of_all(way, start.recipe.step, pool, len(keep))
    check_writable(here, 5 * sum(leaf.nbytes for leaf in jax.tree.leaves(start.states)))
    record = _record(here, config, pool, keep, exclude)
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


def find_shadows(
    config: ConfigDict,
    pool: Split,
    num_classes: int,
    folder: Path,
    forget: Sequence[int],
    network: Network | None = None,
) -> tuple[Shadows, Shadows]:
    """Finished sets under `folder` for a recipe: shadow models of every class, and those without `forget`.

    Both have the `keep` that `draw_keep` draws by the seed of the recipe; their number of epochs may differ from that
    of `config`. Among several such pairs, the one with the most models is returned, then that of the longest training.

    Raises:
      InputError: there is no such pair.
    """
    found = set()
    for path in sorted(folder.glob("*/record.json")) if folder.is_dir() else []:
        record = records.checked(read_piece(path), records.ShadowSet, path)
        record["config"] = records.config_of(record["config"], path)
        epochs = record["config"]["training"]["epochs"]
        if _is_finished(path.parent) and _settings(record["config"]) == _settings(_with_epochs(config, epochs)):
            found.add((record["number"], epochs))
    for number, epochs in sorted(found, reverse=True):
        settings = _with_epochs(config, epochs)
        keep = draw_keep(pool.labels, number, settings.seed)
        folders = [shadow_folder(settings, pool, keep, folder, exclude, network) for exclude in ((), forget)]
        if all(map(_is_finished, folders)):
            module = _module(settings, num_classes, pool.images.shape[1:], network)
            like = _stacked_shapes(settings, pool, num_classes, number, network)
            preparation = shadow_preparation(settings, pool)
            about = {
                "mean": preparation.mean,
                "std": preparation.std,
                "class_names": list(map(str, range(num_classes))),
            }
            sets = []
            for here, exclude in zip(folders, ((), tuple(forget)), strict=True):
                variables = checkpoint.load_variables(here / "models", like)
                model = from_linen(module, variables, **about, forgotten=exclude)
                sets.append(Shadows(model, settings, pool, keep, exclude, preparation, here))
            return tuple(sets)
    classes = ",".join(map(str, forget))
    raise InputError(
        f"{folder} holds no finished shadow models of this recipe with and without the classes {classes}; "
        f"train them: python -m experiments.shadows --workdir=... --forget={classes} --out={folder}"
    )


def shadow_folder(
    config: ConfigDict,
    pool: Split,
    keep: np.ndarray,
    folder: Path,
    exclude: Sequence[int] = (),
    network: Network | None = None,
) -> Path:
    """The folder of the set of this recipe, pool, `keep` and `exclude` under `folder`; it need not exist.

    Older names did not depend on `config.features`, so that sets of different recipes shared a name: such a set is used
    only if its record has this recipe.
    """
    what = {"exclude": sorted(map(int, exclude)), **_digests(pool, keep)}
    if network:
        what["network"] = network.digest
    settings = _settings(config)
    old = folder / _digest_of(what | {"settings": {k: v for k, v in settings.items() if k != "features"}})
    path = old / "record.json"
    if path.exists():
        record = records.checked(read_piece(path), records.ShadowSet, path)
        if _settings(records.config_of(record["config"], path)) == settings:
            return old
    return folder / _digest_of(what | {"settings": settings})


def seconds_per_shadow(folder: Path) -> float:
    """The training time of each model of the finished set in `folder`, including its share of the compilation."""
    record = records.checked(read_piece(folder / "record.json"), records.ShadowSet, folder / "record.json")
    return sum(epoch["seconds"] for epoch in record["epochs"]) / record["number"]


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
    _check_number(len(keep))
    if config.training.start_from:
        raise InputError(
            "the recipe starts from another network (training.start_from), so its config is not the whole recipe; "
            "take one that was trained from random parameters"
        )
    image_shape = pool.images.shape[1:]
    check_settings(config, image_shape)
    allowed = ~np.isin(pool.labels, list(exclude))
    if not allowed.any():
        raise InputError("no image is left to train shadow models on; leave out fewer classes")
    members = [np.flatnonzero(row & allowed).astype(np.int32) for row in keep]
    smallest = min(map(len, members))
    steps = len(batch_sizes(smallest, config.training.batch_size, config.training.last_batch))
    if not steps:
        raise InputError(
            f"training.batch_size {config.training.batch_size} exceeds the {smallest} images of the smallest shadow "
            "model; each has half of the pool, so use a smaller batch"
        )
    model = _module(config, num_classes, image_shape, network)
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


# Identity of a set


def _check_number(number: int) -> None:
    if number < 4 or number % 2:
        raise InputError(f"{number} shadow models cannot see each image by halves; give an even number of at least 4")


def _check_finite(values: Sequence[Any], epoch: int) -> None:
    """Raises `InputError` if one of the arrays `(N, ...)` is not finite."""
    broken = np.flatnonzero(np.any([~np.isfinite(v).reshape(len(v), -1).all(1) for v in map(np.asarray, values)], 0))
    if len(broken):
        raise InputError(
            f"shadow model {broken[0]} is not finite in epoch {epoch}; lower training.learning_rate or "
            "orthogonality.weight of the recipe"
        )


def _settings(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that a shadow model depends on."""
    fields = json.loads(json.dumps(config.to_dict() if isinstance(config, ConfigDict) else config))
    fields["data"].pop("dir", None)  # the location of the data may change; the pool itself is part of the key
    # Later settings are part of the key only if they differ from their defaults, so that finished sets keep theirs.
    later = (
        ("data", "pad_mode", "reflect"),
        ("training", "last_batch", "drop"),
        ("training", "optimiser", "sgd"),
        ("training", "gradient", "jax"),
    )
    for section, name, default in later:
        if fields[section].get(name) == default:
            del fields[section][name]
    fields.setdefault("features", {"penalty": "none", "weight": 0.0})  # older recipes lack this penalty
    return {name: fields[name] for name in ("seed", "data", "model", "training", "orthogonality", "features")}


def _digest_of(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def _with_epochs(config: ConfigDict, epochs: int) -> ConfigDict:
    changed = ConfigDict(config.to_dict())
    changed.training.epochs = epochs
    return changed


def _digests(pool: Split, keep: np.ndarray) -> dict[str, str]:
    def digest(*arrays: np.ndarray) -> str:
        made = hashlib.sha256()
        for array in arrays:
            made.update(f"{array.shape}{array.dtype}".encode())
            made.update(np.ascontiguousarray(array).data)
        return made.hexdigest()[:16]

    return {"pool": digest(pool.images, pool.labels), "keep": digest(keep)}


def _module(config: ConfigDict, num_classes: int, image_shape: Any, network: Network | None) -> nn.Module:
    return network.module if network else build_model(config, num_classes, image_shape)


def _stacked_shapes(
    config: ConfigDict, pool: Split, num_classes: int, number: int, network: Network | None
) -> dict[str, Any]:
    """Shapes and dtypes of the stacked variables."""
    image_shape = pool.images.shape[1:]
    model = _module(config, num_classes, image_shape, network)
    one = variable_shapes(model, image_shape)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), one)


def _is_finished(folder: Path) -> bool:
    return (folder / "models" / "checkpoints" / "0").is_dir()


def _record(folder: Path, config: ConfigDict, pool: Split, keep: np.ndarray, exclude: Sequence[int]) -> dict[str, Any]:
    """The initial content of `record.json`."""
    path = folder / "record.json"
    if path.exists():
        return records.checked(read_piece(path), records.ShadowSet, path)
    record = {
        "number": len(keep),
        "exclude": sorted(map(int, exclude)),
        "seed": config.seed,
        "images": len(pool.labels),
        **_digests(pool, keep),
        "config": json.loads(json.dumps(config.to_dict())),
        "provenance": provenance(config.seed),
        "epochs": [],
    }
    write_piece(path, record)
    return record
