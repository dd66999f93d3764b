"""A workdir and the data that belong to it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.audit.subject import Subject
from osp_jax.data.sources import Dataset, Split, load_dataset
from osp_jax.data.splits import parse_classes
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.networks import build_model, variable_shapes
from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.workdir import read_json, read_record
from osp_jax.statistics import Statistics, statistics_over
from osp_jax.training.checkpoints import check_finished, load_variables
from osp_jax.training.loop import training_indices
from osp_jax.training.recipe import preparation_of


class TrainedModel(NamedTuple):
    """A workdir, read: the module, its variables, and `record`, the content of `config.json`."""

    model: nn.Module
    variables: dict[str, Any]
    record: dict[str, Any]

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The classes that the model does not know, sorted: those it was made to forget, and those left out of its
        training."""
        names, excluded = self.record["dataset"]["class_names"], self.record["config"]["data"]["exclude"]
        return tuple(sorted({*self.record.get("forgotten", ()), *parse_classes(excluded, names)}))


def load_workdir(workdir: Path, unread: Collection[str] = ()) -> TrainedModel:
    """Reads the model of a workdir; `unread` as `read_record`.

    Raises:
      InputError: not a workdir, no checkpoint, a damaged one, or one of another model; or its training is not finished.
    """
    record = read_record(workdir, unread)
    if "forgotten" not in record and (workdir / "unlearn.json").exists():
        # Older versions kept what was forgotten in unlearn.json only.
        request, classes = read_json(workdir / "unlearn.json"), len(record["dataset"]["class_names"])
        record["forgotten"] = records.request(request, workdir / "unlearn.json", classes)["forget"]
    shape = tuple(record["dataset"]["image_shape"])
    model = build_model(ConfigDict(record["config"]), len(record["dataset"]["class_names"]), shape)
    check_finished(workdir, record)
    like = variable_shapes(model, shape)
    return TrainedModel(model, load_variables(workdir, like), record)


def dataset_of(trained: TrainedModel, data_dir: str) -> Dataset:
    """The data set a workdir was trained on; `data_dir` says where it lies now, empty: where it lay then.

    Raises:
      InputError: it cannot be read, or its images or classes are not those of the training.
    """
    config, wanted = trained.record["config"], trained.record["dataset"]
    data = config["data"]
    dataset = load_dataset(data["name"], data_dir or data["dir"], data["image_size"], data["stream"])
    found = {"image_shape": list(dataset.image_shape), "class_names": list(dataset.class_names)}
    for what, value in found.items():
        if value != wanted[what]:
            short = str(wanted[what])[:80], str(value)[:80]
            raise InputError(
                f"the model was trained with {what} {short[0]}, but the data have {short[1]}; check --data_dir"
            )
    return dataset


def moments_of(trained: TrainedModel) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of a workdir's normalisation."""
    return {name: tuple(trained.record["dataset"][name]) for name in ("mean", "std")}


def indices_of(trained: TrainedModel, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices of a workdir's training run, without the classes that the model has forgotten."""
    train, validation = training_indices(ConfigDict(trained.record["config"]), dataset)
    known = ~np.isin(dataset.train.labels, trained.forgotten)
    return train[known[train]], validation[known[validation]]


def statistics_of(trained: TrainedModel, dataset: Dataset) -> Statistics:
    """Class statistics over the images a workdir was trained on, without those of classes that it has forgotten."""
    config, (train, _) = trained.record["config"], indices_of(trained, dataset)
    given = trained.model, trained.variables, dataset.train, train, config["statistics"], config["seed"]
    return statistics_over(*given, num_classes=dataset.num_classes, **moments_of(trained))


def request_data_of(
    trained: TrainedModel,
    dataset: Dataset,
    forget: tuple[int, ...],
    budget: Mapping[str, int | None] | None = None,
    on_device: tuple[jax.Array, jax.Array] | None = None,
) -> RequestData:
    """What a request to forget may see: the images of `indices_of`, as far as the `budget` goes, which is that of
    `request_data`, as is `on_device`."""
    recipe = trained.record["config"]
    preparation = preparation_of(ConfigDict(recipe), **moments_of(trained))
    train, _ = indices_of(trained, dataset)
    return request_data(dataset.train, train, forget, preparation, recipe, on_device=on_device, **(budget or {}))


def request_without_images(trained: TrainedModel, forget: tuple[int, ...]) -> RequestData:
    """For a request that is answered from statistics: the recipe and the shape of the images, but none of them."""
    recipe, shape = trained.record["config"], trained.record["dataset"]["image_shape"]
    preparation = preparation_of(ConfigDict(recipe), **moments_of(trained))
    nothing = Split(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32))
    return request_data(nothing, np.zeros(0, np.int32), forget, preparation, recipe)


def subject_of(trained: TrainedModel) -> Subject:
    """A workdir's model as the audit takes it, with the augmentation of its training."""
    return Subject(
        trained.model, trained.variables, preparation_of(ConfigDict(trained.record["config"]), **moments_of(trained))
    )


def record_for_report(trained: TrainedModel) -> dict[str, Any]:
    """The data set and model entries of `eval.json`."""
    from osp_jax.networks import count_parameters

    dataset = {key: value for key, value in trained.record["dataset"].items() if key not in ("mean", "std")}
    name = trained.record["config"]["model"]["name"]
    return {"dataset": dataset, "model": {"name": name, "parameters": count_parameters(trained.variables)}}
