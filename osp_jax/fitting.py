"""Fits a head in closed form on the network of another workdir, which stays as it is, and writes a workdir of it."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.dataset import Dataset, describe_dataset
from osp_jax.data.given import split_of
from osp_jax.data.sources import Split
from osp_jax.data.splits import per_class_sample
from osp_jax.interop.checks import checked_classes
from osp_jax.interop.stored_network import keep_stored_weights
from osp_jax.loading import TrainedModel, load_workdir, with_backbone
from osp_jax.model import Model
from osp_jax.program.gates import Gates, gates_of, noise_images
from osp_jax.ridge.files import FOLDER, save_moments
from osp_jax.ridge.moments import HeadMoments, class_moments, features_of
from osp_jax.ridge.network import check_ridge_head, random_features_of, with_head, with_ridge_head
from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import Experiment, check, validated
from osp_jax.runtime.workdir import TOKENIZER, check_writable, read_json, replacing, write_json, write_text
from osp_jax.statistics import ClassStatistics, Statistics, increment, layer_statistics, no_images
from osp_jax.statistics_files import save_statistics
from osp_jax.training.checkpoints import save_variables
from osp_jax.training.loop import training_indices

_ROWS = 2048  # images whose features are looked at together


class Fitted(NamedTuple):
    """A model with a fitted head, and the statistics that requests to forget are answered from."""

    model: Model
    statistics: Statistics


def fit_workdir(config: ConfigDict, dataset: Dataset, workdir: Path) -> str:
    """Fits the head of `config` on the network of `config.training.start_from`, and writes `workdir`.

    Images are normalised as the network was trained. Nothing that the head reads follows from its training images.

    Returns:
      what a user should know of what the network has seen; empty where there is nothing to say.

    Raises:
      InputError: no network to start from, or one for other images; too few stages; a workdir of something else.
    """
    config = validated(config)
    start = Path(config.training.start_from)
    if not config.training.start_from:
        raise InputError("training.head 'ridge' stands on a trained network; give its workdir as training.start_from")
    backbone = load_workdir(start)
    if backbone.record.get("backbone"):
        raise InputError(f"{start} has a ridge head itself; give the network that it stands on (training.start_from)")
    shape = tuple(backbone.record["dataset"]["image_shape"])
    if shape != dataset.image_shape:
        raise InputError(f"{start} was trained on images {shape} and these are {dataset.image_shape}; give others")
    record = {
        "config": json.loads(json.dumps({**config.to_dict(), "model": backbone.record["config"]["model"]})),
        "dataset": describe_dataset(dataset, backbone.model.mean, backbone.model.std),
        "backbone": _backbone_record(start, backbone),
        "provenance": provenance(config.seed),
    }
    note = _seen_before(backbone, dataset)
    if _is_fitted(workdir, record):
        return note
    train, _ = training_indices(config, dataset)
    trained = TrainedModel(with_backbone(record, backbone.model), record, dataset.tokenizer)
    values = network_features(trained.model, dataset.train, train, config.statistics.batch_size)
    about = {"sample": config.statistics.features, "seed": config.seed}
    fitted = fit_features(trained.model, values, dataset.train.labels[train], train, shape, config.head, **about)
    arrays = [*jax.tree.leaves((fitted.model.variables, fitted.statistics)), *fitted.statistics.head.classes.values()]
    check_writable(workdir.resolve().parent, 2 * sum(array.nbytes for array in arrays) + values.nbytes)
    with replacing(workdir, before=lambda: _is_fitted(workdir, record)) as folder:
        write_json(folder / "config.json", record)
        save_variables(folder, fitted.model.variables)
        save_statistics(folder / "statistics", fitted.statistics)
        save_moments(folder / FOLDER, fitted.statistics.head)
        if dataset.tokenizer and is_first():
            write_text(folder / TOKENIZER, dataset.tokenizer)
        if backbone.record.get("network"):
            keep_stored_weights(start, folder)
    return note


def fit_head(
    backbone: Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    stages: int = 6,
    flip: bool = True,
    random_features: int = 0,
    ridge: float = 1.0,
    scale: float = 10.0,
    keep_features: bool = True,
    batch_size: int = 256,
    seed: int = 0,
) -> Fitted:
    """Fits a linear head in closed form on the features of a network, which stays as it is.

        fitted = osp_jax.fit_head(backbone, images, labels, class_names=names)
        result = osp_jax.unlearn(fitted.model, ["cat"], "exact-head", statistics=fitted.statistics)

    Args:
      backbone: any `Model`, of any classes; images are normalised by its `mean` and `std`.
      images: uint8 `(n, h, w, c)`. labels: int `(n,)`.
      class_names: of the head, by class number.
      stages: the features are the means and maxima of the channels of so many last stages.
      flip: they are averaged over an image and its mirror image.
      random_features: random ReLU features beside them, drawn by `seed`.
      ridge: on the squares of the weights, against the sum over all images.
      scale: of the logits; targets are this for the class of an image and 0 for others.
      keep_features: of each image, so that `forget_images` can forget it.
      batch_size: images that go through the network together.

    Raises:
      InputError: images, labels or settings of another type, shape or range, or a network with fewer stages.
    """
    if not isinstance(backbone, Model):
        raise InputError(
            f"backbone is {shown(backbone)}; give a Model, as from_torch, from_linen or from_nnx return it"
        )
    given = {"stages": stages, "flip": flip, "random_features": random_features, "ridge": ridge, "scale": scale}
    given |= {"keep_features": keep_features}
    check({"head": given, "seed": seed, "statistics": {"batch_size": batch_size}}, Experiment, "")
    names = checked_classes(class_names)
    split = split_of(images, labels, len(names))
    shape, indices = split.images.shape[1:], np.arange(len(split.labels))
    options = {name: given[name] for name in ("stages", "flip", "random_features")}
    model = with_ridge_head(backbone, shape, names, seed=seed, **options)
    values = network_features(model, split, indices, batch_size)
    return fit_features(model, values, split.labels, indices, shape, given, seed=seed)


def network_features(model: Model, split: Split, indices: np.ndarray, batch_size: int) -> np.ndarray:
    """What the frozen network of a model with a ridge head gives of the images `indices`, float32 `(n, f)`."""
    check_ridge_head(model)
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)

    @jax.jit
    def features(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply.features(variables, normalise(images, *moments))

    found = [np.asarray(features(model.variables, images)) for images, _ in index_batches(split, indices, batch_size)]
    return np.concatenate(found)[: len(indices)]


def fit_features(
    model: Model,
    values: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    image_shape: tuple[int, ...],
    settings: Mapping[str, Any],
    *,
    sample: int = 4000,
    seed: int = 0,
    prepare: bool = True,
) -> Fitted:
    """Fits the head of `model` to features of images.

    Args:
      values: float32 `(n, f)`, what `network_features` gives.
      labels: int `(n,)`.
      numbers: of the images in the training split, int `(n,)`, each once.
      settings: with `ridge`, `scale` and `keep_features`, as in the config's `head`.
      sample: of images whose features the statistics keep, drawn by `seed`.
      prepare: also solve for the head without each class.
    """
    random = random_features_of(model.variables)
    kept = features_of(numbers, labels, values) if settings["keep_features"] else None
    classes = class_moments(values, labels, random)
    moments = HeadMoments(classes, model.num_classes, settings["ridge"], settings["scale"], random, features=kept)
    moments = moments.with_prepared() if prepare else moments
    model = with_head(model, moments.head(), list(classes))
    gone = tuple(number for number in range(model.num_classes) if number not in classes)
    gates = gates_of(model.apply, model.variables, noise_images(image_shape))
    statistics = _statistics(gates, model.num_classes, values, labels, moments, sample, seed)
    return Fitted(model.replace(forgotten=gone), statistics.replace(image_shape=tuple(image_shape)))


def _statistics(
    gates: Gates, num_classes: int, values: np.ndarray, labels: np.ndarray, moments: HeadMoments, sample: int, seed: int
) -> Statistics:
    """As `statistics_over` gives them, of the features that are known already."""
    total = no_images(num_classes, gates.last.channels)
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        inputs = moments.expanded(values[rows])[:, :-1].astype(np.float32)
        total = _added(total, jnp.asarray(inputs), jnp.asarray(labels[rows]))
    chosen = per_class_sample(labels, np.arange(len(labels)), sample, seed) if sample else np.zeros(0, np.int32)
    features = moments.expanded(values[chosen])[:, :-1].astype(np.float32)
    kept = jnp.asarray(features), jnp.asarray(labels[chosen], jnp.int32)
    return Statistics({gates.features: total}, *kept, gates, head=moments)


@jax.jit
def _added(total: ClassStatistics, inputs: jax.Array, labels: jax.Array) -> ClassStatistics:
    batch = layer_statistics(inputs, labels, total.count.shape[0])
    return jax.tree.map(jnp.add, total, increment(total, batch))


# The workdir


def _backbone_record(start: Path, backbone: TrainedModel) -> dict[str, Any]:
    record = backbone.record
    return {
        "workdir": str(start),
        "model": record["config"]["model"],
        "class_names": record["dataset"]["class_names"],
        "dataset": record["dataset"]["name"],
        "exclude": record["config"]["data"]["exclude"],
        "network": record.get("network"),
    }


def _seen_before(backbone: TrainedModel, dataset: Dataset) -> str:
    """A warning where the network was trained on the images that the head is fitted to."""
    record = backbone.record["dataset"]
    if record["name"] != dataset.name:
        return ""
    return (
        f"the network was trained on {dataset.name} itself: exact-head then removes a class from the head alone, and "
        "what the network learnt of it stays"
    )


def _is_fitted(workdir: Path, record: dict[str, Any]) -> bool:
    """Whether `workdir` holds this very fit; raises `InputError` where it holds something else."""
    if not workdir.exists() or (workdir.is_dir() and not any(workdir.iterdir())):
        return False
    found = read_json(workdir / "config.json") if (workdir / "config.json").exists() else {}
    wanted = json.loads(json.dumps(record))
    alike = [_without_places(of) for of in (found, wanted)]
    if (workdir / "unlearn.json").exists() or alike[0] != alike[1]:
        raise InputError(f"{workdir} holds something else than this fit; choose another --workdir")
    load_workdir(workdir)  # raises where it is damaged
    return True


def _without_places(record: dict[str, Any]) -> dict[str, Any]:
    """What makes a fit, wherever its data and its network lie."""
    kept = {name: record.get(name) for name in ("config", "dataset", "backbone")}
    kept = json.loads(json.dumps(kept))
    for path in (("config", "data", "dir"), ("config", "training", "start_from"), ("backbone", "workdir")):
        fields = kept
        for name in path[:-1]:
            fields = (fields or {}).get(name)
        if fields:
            fields.pop(path[-1], None)
    return kept


# Requests for single images


def forget_images(model: Model, statistics: Statistics, numbers: Collection[int]) -> Fitted:
    """What a fit without the images `numbers` gives: the moments are downdated, the rest follows from kept features.

    Args:
      model: with a ridge head.
      statistics: of its fit, or of the request before.
      numbers: of training images, counted from 0 in the split that the head was fitted to.

    Raises:
      InputError: another kind of model, no features were kept, or an image is unknown, forgotten already or the last
        of its class.
    """
    check_ridge_head(model)
    if statistics.head is None:
        raise InputError("the statistics hold no moments of the head; take those that were fitted with it")
    moments = statistics.head.without_images(numbers)
    moments = dataclasses.replace(moments, features=moments.features.compact()).with_prepared()
    new = with_head(model, moments.head(), list(moments.classes))
    kept, sample = moments.features, len(statistics.labels)
    found = _statistics(statistics.gates, model.num_classes, kept.values, kept.labels, moments, sample, seed=0)
    return Fitted(new, found.replace(image_shape=statistics.image_shape))
