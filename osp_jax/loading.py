"""Loads a workdir and its data."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.audit.shadow.sets import Network
from osp_jax.audit.subject import Subject
from osp_jax.data.augment import Preparation
from osp_jax.data.kinds import is_text
from osp_jax.data.paths import user_data
from osp_jax.data.sources import Dataset, load_data
from osp_jax.data.splits import parse_classes
from osp_jax.interop.linen import from_linen
from osp_jax.interop.stored_network import stored_network
from osp_jax.model import Model, parameters_of
from osp_jax.networks import build_model, variable_shapes
from osp_jax.program.gates import gates_of, noise_images
from osp_jax.ridge.files import FOLDER, load_moments
from osp_jax.ridge.network import random_features_of, with_ridge_head
from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.workdir import TOKENIZER, read_json, read_record, read_tokenizer
from osp_jax.statistics import Statistics, statistics_over
from osp_jax.statistics_files import load_statistics
from osp_jax.training.checkpoints import check_finished, load_variables
from osp_jax.training.loop import training_indices
from osp_jax.training.recipe import preparation_of, trained_by_recipes


class TrainedModel(NamedTuple):
    """The content of a workdir: the model, `record` (`config.json`), and the `tokenizer` of a model of texts, else ''.

    `model.forgotten` contains the forgotten classes and those excluded from training.
    """

    model: Model
    record: dict[str, Any]
    tokenizer: str = ""

    @property
    def preparation(self) -> Preparation:
        """The normalisation and augmentation of the training."""
        return preparation_of(ConfigDict(self.record["config"]), self.model.mean, self.model.std)


def load_workdir(workdir: Path, unread: Collection[str] = ()) -> TrainedModel:
    """Reads the model of a workdir; `unread` as `read_record`.

    Raises:
      InputError: not a workdir; a missing, damaged or foreign checkpoint; an unfinished training; or a missing or
        changed file of an imported network.
    """
    record = read_record(workdir, unread)
    if "forgotten" not in record and (workdir / "unlearn.json").exists():
        # Older versions recorded the forgotten classes in unlearn.json only.
        request, classes = read_json(workdir / "unlearn.json"), len(record["dataset"]["class_names"])
        record["forgotten"] = records.request(request, workdir / "unlearn.json", classes)["forget"]
    about = record["dataset"]
    names, shape = about["class_names"], tuple(about["image_shape"])
    forgotten = {*record.get("forgotten", ()), *parse_classes(record["config"]["data"]["exclude"], names)}
    given = {"mean": about["mean"], "std": about["std"], "class_names": names, "forgotten": forgotten}
    tokenizer = read_tokenizer(workdir)
    if record.get("backbone"):
        model = _with_ridge_head(workdir, record, forgotten)
        shapes = jax.eval_shape(lambda variables: variables, model.variables)
        return TrainedModel(model.replace(variables=load_variables(workdir, shapes)), record, tokenizer)
    if record.get("network"):
        model = stored_network(workdir, record["network"], shape, **given)
        shapes = jax.eval_shape(lambda variables: variables, model.variables)
        return TrainedModel(model.replace(variables=load_variables(workdir, shapes)), record, tokenizer)
    module = build_model(ConfigDict(record["config"]), len(names), shape)
    check_finished(workdir, record)
    variables = load_variables(workdir, variable_shapes(module, shape))
    return TrainedModel(from_linen(module, variables, **given), record, tokenizer)


def with_backbone(record: Mapping[str, Any], backbone: Model) -> Model:
    """The network of a workdir with a closed-form head; the head is all zeros.

    Args:
      record: the content of its `config.json`.
      backbone: the network under the head; its variables may be shapes.
    """
    head, about = record["config"]["head"], record["dataset"]
    options = {name: head[name] for name in ("stages", "flip", "random_features")}
    names, seed = about["class_names"], record["config"]["seed"]
    model = with_ridge_head(backbone, about["image_shape"], names, seed=seed, **options)
    return model.replace(mean=tuple(about["mean"]), std=tuple(about["std"]))


def _with_ridge_head(workdir: Path, record: Mapping[str, Any], forgotten: Collection[int]) -> Model:
    about, found = record["dataset"], record["backbone"]
    shape, given = tuple(about["image_shape"]), {"mean": about["mean"], "std": about["std"]}
    given |= {"class_names": found["class_names"], "forgotten": ()}
    if found.get("network"):
        backbone = stored_network(workdir, found["network"], shape, **given)
    else:
        module = build_model(
            ConfigDict({"model": found["model"], "data": record["config"]["data"]}), len(found["class_names"]), shape
        )
        backbone = from_linen(module, variable_shapes(module, shape), **given)
    return with_backbone(record, backbone).replace(forgotten=tuple(sorted(forgotten)))


def network_to_keep(record: Mapping[str, Any]) -> bool:
    """Whether a workdir stores the weights of an imported network or backbone."""
    return bool(record.get("network") or (record.get("backbone") or {}).get("network"))


def dataset_of(trained: TrainedModel, data_dir: str) -> Dataset:
    """Reads the data set of a workdir's training; `data_dir` is its current location, empty: the recorded one.

    Raises:
      InputError: it cannot be read, or its images or classes differ from those of the training.
    """
    config, wanted = trained.record["config"], trained.record["dataset"]
    data = config["data"]
    if is_text(wanted["image_shape"]) and not trained.tokenizer:
        raise InputError(f"the workdir has no {TOKENIZER}, which makes token ids of its texts; restore it")
    dataset = load_data({**data, "dir": data_dir or data["dir"]}, trained.tokenizer)
    found = {"image_shape": list(dataset.image_shape), "class_names": list(dataset.class_names)}
    for what, value in found.items():
        if value != wanted[what]:
            short = str(wanted[what])[:80], str(value)[:80]
            raise InputError(
                f"the model was trained with {what} {short[0]}, but the data have {short[1]}; check --data_dir"
            )
    for what, split in (("train", dataset.train), ("test", dataset.test)):
        count = len(split.labels)
        if user_data(data["name"]) and count != (recorded := wanted.get(f"num_{what}", count)):
            raise InputError(
                f"{dataset.name} had {recorded} {what} examples when the model was trained and has {count} now; "
                "restore the original data (--data_dir), or create the workdir again"
            )
    return dataset


def indices_of(trained: TrainedModel, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices of a workdir's training, without the forgotten classes and images."""
    train, validation = training_indices(ConfigDict(trained.record["config"]), dataset)
    known = ~np.isin(dataset.train.labels, trained.model.forgotten)
    known[trained.record.get("forgotten_images", [])] = False
    return train[known[train]], validation[known[validation]]


def statistics_of(trained: TrainedModel, dataset: Dataset) -> Statistics:
    """Class statistics over the training images of a workdir, without forgotten classes."""
    config, (train, _) = trained.record["config"], indices_of(trained, dataset)
    return statistics_over(trained.model, dataset.train, train, config["statistics"], config["seed"])


def stored_statistics(trained: TrainedModel, workdir: Path) -> Statistics:
    """Reads the class statistics of a workdir, whose model is `trained`.

    Raises:
      InputError: they are missing or damaged.
    """
    model, shape = trained.model, tuple(trained.record["dataset"]["image_shape"])
    find_gates = partial(gates_of, model.apply, model.variables, noise_images(shape))
    statistics = load_statistics(workdir / "statistics", find_gates)
    if not trained.record.get("backbone"):
        return statistics
    head, random = trained.record["config"]["head"], random_features_of(model.variables)
    return statistics.replace(head=load_moments(workdir / FOLDER, head, random, model.num_classes))


def subject_of(trained: TrainedModel) -> Subject:
    """The audit's `Subject` for a workdir's model, with the augmentation of its training."""
    return Subject(trained.model, trained.preparation)


def shadowed_network(trained: TrainedModel) -> Network | None:
    """The network for a workdir's shadow models; None: the one that the recipe names.

    Raises:
      InputError: the network is imported, and its recipe is unknown or cannot train it.
    """
    if trained.record.get("backbone"):
        raise InputError(
            "shadow models are trained, and this head was fitted in closed form on a frozen network; use "
            "--audit=quick, or python -m benchmarks.exact_head, which fits shadow heads"
        )
    network = trained.record.get("network")
    if not network:
        return None
    if network["framework"] != "linen":
        raise InputError(
            f"recipes train shadow models only for Linen modules, and this is {KINDS[network['framework']]} network; "
            "use --audit=quick, which trains none"
        )
    if not network["recipe"]:
        raise InputError(
            "shadow models need the recipe of the network, which is unknown: import it again with "
            "--recipe=configs/..., or use --audit=quick"
        )
    module = trained_by_recipes(
        trained.model, tuple(trained.record["dataset"]["image_shape"]), "the training of shadow models"
    )
    return Network(module, f"{network['function']} {network['sha256']}")


def same_network(one: TrainedModel, other: TrainedModel) -> bool:
    """Whether two workdirs hold the same network, whatever its training images."""
    mine, its = one.record.get("backbone"), other.record.get("backbone")
    if mine or its:
        alike = bool(mine and its) and one.record["config"]["head"] == other.record["config"]["head"]
        return alike and [mine[key] for key in ("model", "network")] == [its[key] for key in ("model", "network")]
    mine, its = one.record.get("network"), other.record.get("network")
    if mine and its:
        return [mine[key] for key in _NETWORK] == [its[key] for key in _NETWORK]
    return not mine and not its and one.record["config"]["model"] == other.record["config"]["model"]


KINDS = {"torch": "a torch", "linen": "a Linen", "nnx": "an NNX", "function": "a plain-function"}
_NETWORK = "function", "sha256", "framework"


def record_for_report(trained: TrainedModel) -> dict[str, Any]:
    """The data set and model entries of `eval.json`."""
    dataset = {key: value for key, value in trained.record["dataset"].items() if key not in ("mean", "std")}
    name, network = trained.record["config"]["model"]["name"], trained.record.get("network")
    if network:
        name = network["function"].rpartition(":")[2]
    if trained.record.get("backbone"):
        name = f"ridge head on {name.rpartition(':')[2]}"
    return {"dataset": dataset, "model": {"name": name, "parameters": parameters_of(trained.model)}}
