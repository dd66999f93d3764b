"""Fits the head of a config on the network of another workdir, and writes the result as a new workdir."""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from osp_jax.data.dataset import Dataset, describe_dataset
from osp_jax.head_fit import fit_features, network_features
from osp_jax.interop.stored_network import keep_stored_weights
from osp_jax.loading import TrainedModel, load_workdir, with_backbone
from osp_jax.ridge.files import FOLDER, save_moments
from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import validated
from osp_jax.runtime.workdir import TOKENIZER, check_writable, read_json, replacing, write_json, write_text
from osp_jax.statistics_files import save_statistics
from osp_jax.training.checkpoints import save_variables
from osp_jax.training.loop import training_indices


def fit_workdir(config: ConfigDict, dataset: Dataset, workdir: Path) -> str:
    """Fits the head of `config` on the network of `config.training.start_from`, and writes `workdir`.

    Images are normalised by the constants of the network. The inputs of the head do not depend on its training images.

    Returns:
      a warning about images that the network was trained on; empty if there is none.

    Raises:
      InputError: there is no network to start from, it takes other images or has too few stages, or `workdir` holds
        another run.
    """
    config = validated(config)
    start = Path(config.training.start_from)
    if not config.training.start_from:
        raise InputError("training.head 'ridge' needs a trained network; give its workdir as training.start_from")
    backbone = load_workdir(start)
    if backbone.record.get("backbone"):
        raise InputError(f"{start} has a ridge head itself; give its backbone's workdir as training.start_from")
    shape = tuple(backbone.record["dataset"]["image_shape"])
    if shape != dataset.image_shape:
        raise InputError(f"{start} was trained on images {shape}, not {dataset.image_shape}; give images of that shape")
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
    moments = fitted.statistics.head
    assert moments is not None, "a fit keeps its moments"
    arrays = [*jax.tree.leaves((fitted.model.variables, fitted.statistics)), *moments.classes.values()]
    check_writable(workdir.resolve().parent, 2 * sum(array.nbytes for array in arrays) + values.nbytes)
    with replacing(workdir, before=lambda: _is_fitted(workdir, record)) as folder:
        write_json(folder / "config.json", record)
        save_variables(folder, fitted.model.variables)
        save_statistics(folder / "statistics", fitted.statistics)
        save_moments(folder / FOLDER, moments)
        if dataset.tokenizer and is_first():
            write_text(folder / TOKENIZER, dataset.tokenizer)
        if backbone.record.get("network"):
            keep_stored_weights(start, folder)
    return note


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
    """A warning if the network was trained on the images that the head is fitted to, else ''."""
    record = backbone.record["dataset"]
    if record["name"] != dataset.name:
        return ""
    return (
        f"the network was trained on {dataset.name} itself: exact-head removes a class from the head only, and the "
        "network keeps what it learned from the class"
    )


def _is_fitted(workdir: Path, record: dict[str, Any]) -> bool:
    """Whether `workdir` holds this fit; raises `InputError` if it holds another run."""
    if not workdir.exists() or (workdir.is_dir() and not any(workdir.iterdir())):
        return False
    found = read_json(workdir / "config.json") if (workdir / "config.json").exists() else {}
    wanted = json.loads(json.dumps(record))
    alike = [_without_locations(of) for of in (found, wanted)]
    if (workdir / "unlearn.json").exists() or alike[0] != alike[1]:
        raise InputError(f"{workdir} holds another run than this fit; choose another --workdir")
    load_workdir(workdir)  # raises if it is damaged
    return True


def _without_locations(record: dict[str, Any]) -> dict[str, Any]:
    """The fields that identify a fit, without the locations of its data and network."""
    kept = {name: record.get(name) for name in ("config", "dataset", "backbone")}
    kept = json.loads(json.dumps(kept))
    for path in (("config", "data", "dir"), ("config", "training", "start_from"), ("backbone", "workdir")):
        fields = kept
        for name in path[:-1]:
            fields = (fields or {}).get(name)
        if fields:
            fields.pop(path[-1], None)
    return kept
