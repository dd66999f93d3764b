"""A workdir and the data that belong to it."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.audit.shadow.train import Network
from osp_jax.audit.subject import Subject
from osp_jax.data.augment import Preparation
from osp_jax.data.kinds import is_text, stored_dtype
from osp_jax.data.paths import own_place
from osp_jax.data.sources import Dataset, Split, load_data
from osp_jax.data.splits import parse_classes
from osp_jax.harm import Harm, estimate_harm
from osp_jax.interop.linen import from_linen
from osp_jax.interop.stored_network import stored_network
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.methods.parts.method import Method
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
    """A workdir, read: the model, `record`, the content of `config.json`, and the `tokenizer` of one that reads texts.

    `model.forgotten` are the classes that it was made to forget, and those that were left out of its training.
    """

    model: Model
    record: dict[str, Any]
    tokenizer: str = ""

    @property
    def preparation(self) -> Preparation:
        """The normalisation, and the augmentation of the training."""
        return preparation_of(ConfigDict(self.record["config"]), self.model.mean, self.model.std)


def load_workdir(workdir: Path, unread: Collection[str] = ()) -> TrainedModel:
    """Reads the model of a workdir; `unread` as `read_record`.

    Raises:
      InputError: not a workdir, no checkpoint, a damaged one, or one of another model; its training is not finished; or
        the file of a network that was trained elsewhere is missing or was changed.
    """
    record = read_record(workdir, unread)
    if "forgotten" not in record and (workdir / "unlearn.json").exists():
        # Older versions kept what was forgotten in unlearn.json only.
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
    """The network of a workdir whose head is fitted in closed form, with a head of zeros.

    Args:
      record: the content of its `config.json`.
      backbone: the network that it stands on; its variables may be shapes.
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
    """Whether a workdir keeps weights that came from elsewhere, of its network or of the one that its head is on."""
    return bool(record.get("network") or (record.get("backbone") or {}).get("network"))


def dataset_of(trained: TrainedModel, data_dir: str) -> Dataset:
    """The data set a workdir was trained on; `data_dir` says where it lies now, empty: where it lay then.

    Raises:
      InputError: it cannot be read, or its images or classes are not those of the training.
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
    counts = [(what, len(split.labels)) for what, split in (("num_train", dataset.train), ("num_test", dataset.test))]
    if own_place(data["name"]) and (differing := [pair for pair in counts if pair[1] != wanted.get(*pair)]):
        (what, count), *_ = differing
        raise InputError(
            f"the model came with {wanted[what]} images as {what}, but {dataset.name} has {count} now; restore the "
            "images of that time (--data_dir), or make the workdir anew"
        )
    return dataset


def indices_of(trained: TrainedModel, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices of a workdir's training run, without what the model has forgotten."""
    train, validation = training_indices(ConfigDict(trained.record["config"]), dataset)
    known = ~np.isin(dataset.train.labels, trained.model.forgotten)
    known[trained.record.get("forgotten_images", [])] = False
    return train[known[train]], validation[known[validation]]


def statistics_of(trained: TrainedModel, dataset: Dataset) -> Statistics:
    """Class statistics over the images a workdir was trained on, without those of classes that it has forgotten."""
    config, (train, _) = trained.record["config"], indices_of(trained, dataset)
    return statistics_over(trained.model, dataset.train, train, config["statistics"], config["seed"])


def stored_statistics(trained: TrainedModel, workdir: Path) -> Statistics:
    """The class statistics that are stored in a workdir, whose model is `trained`.

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
    train, _ = indices_of(trained, dataset)
    return request_data(
        dataset.train, train, forget, trained.preparation, recipe, on_device=on_device, **(budget or {})
    )


def request_input(
    trained: TrainedModel,
    method: Method,
    forget: tuple[int, ...],
    statistics: Statistics,
    dataset: Callable[[], Dataset],
    budget: Mapping[str, int | None],
) -> RequestData | None:
    """What a request of a method may see; `dataset` reads the images, and is called where the method needs them."""
    if method.needs_images(statistics):
        return request_data_of(trained, dataset(), forget, budget)
    return request_without_images(trained, forget) if method.sees else None


def request_without_images(trained: TrainedModel, forget: tuple[int, ...]) -> RequestData:
    """For a request that is answered from statistics: the recipe and the shape of the images, but none of them."""
    recipe, shape = trained.record["config"], trained.record["dataset"]["image_shape"]
    nothing = Split(np.zeros((0, *shape), stored_dtype(shape)), np.zeros(0, np.int32))
    return request_data(nothing, np.zeros(0, np.int32), forget, trained.preparation, recipe)


def harm_of_request(
    trained: TrainedModel,
    after: Model,
    forget: tuple[int, ...],
    statistics: Statistics,
    dataset: Callable[[], Dataset] | None,
    *,
    accept: bool = False,
) -> Harm | None:
    """What a request to a workdir's model costs, from the statistics if possible; None where it is accepted and cannot
    be told.

    Args:
      dataset: reads the images; called where the statistics do not show what the request costs. None, for a request
        that is accepted: they are not read.
      accept: the request is accepted whatever it costs.

    Raises:
      InputError: the images are needed and cannot be read.
    """

    def estimate(**images: Any) -> Harm:
        return estimate_harm(trained.model, after, forget, statistics=statistics, **images)

    try:
        return estimate()
    except InputError:
        if dataset is None:
            return None
    try:
        split = dataset().train
    except InputError as error:
        if accept:
            return None
        raise InputError(
            f"what the request costs does not follow from the statistics, and the images cannot be read ({error}); "
            "give --data_dir, or --accept whatever it costs"
        ) from error
    try:
        return estimate(images=split.images, labels=split.labels)
    except InputError:
        if accept:
            return None
        raise


def subject_of(trained: TrainedModel) -> Subject:
    """A workdir's model as the audit takes it, with the augmentation of its training."""
    return Subject(trained.model, trained.preparation)


def check_recipe(trained: TrainedModel, method: Method, name: str) -> None:
    """Checks that a method has what it needs of the training of a network that was trained elsewhere.

    Args:
      name: of the method.

    Raises:
      InputError: the method trains and the settings of the training are unknown, or it starts from new variables and
        the network has none.
    """
    network, model = trained.record.get("network"), trained.model
    if not network or not (method.trains or method.starts_over):
        return
    if not network["recipe"]:
        raise InputError(
            f"{name} trains, and the settings of this network's training are not known: import it again with "
            "--recipe=configs/..., a config file with them, or take a method that does not train, as osp-fit"
        )
    if method.starts_over and model.init is None:
        raise InputError(
            f"{name} starts from new variables, which {_KINDS[network['framework']]} does not give here: retrain it "
            "without the class in its own framework and import the result with --exclude, as a --reference for "
            "experiments.eval, or take another method"
        )
    if method.trains and model.train_apply is None:
        raise InputError(
            f"{name} trains, and {_KINDS[network['framework']]} has no train mode here; take a method that does not "
            "train, as osp-fit"
        )


def shadowed_network(trained: TrainedModel) -> Network | None:
    """The network of shadow models of a workdir; None: the one that the recipe names.

    Raises:
      InputError: it was trained elsewhere, and its recipe is not known or cannot train it.
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
            f"shadow models are trained here, by a recipe, which only Linen modules can be, and the network is "
            f"{_KINDS[network['framework']]}; use --audit=quick, which needs none"
        )
    if not network["recipe"]:
        raise InputError(
            "shadow models are trained by the recipe of the network, which is not known: import it again with "
            "--recipe=configs/..., a config file with the settings of its training, or use --audit=quick"
        )
    module = trained_by_recipes(
        trained.model, tuple(trained.record["dataset"]["image_shape"]), "the training of shadow models"
    )
    return Network(module, f"{network['function']} {network['sha256']}")


def same_network(one: TrainedModel, other: TrainedModel) -> bool:
    """Whether two workdirs are of one network, whatever it was trained on."""
    mine, its = one.record.get("backbone"), other.record.get("backbone")
    if mine or its:
        alike = bool(mine and its) and one.record["config"]["head"] == other.record["config"]["head"]
        return alike and [mine[key] for key in ("model", "network")] == [its[key] for key in ("model", "network")]
    mine, its = one.record.get("network"), other.record.get("network")
    if mine and its:
        return [mine[key] for key in _NETWORK] == [its[key] for key in _NETWORK]
    return not mine and not its and one.record["config"]["model"] == other.record["config"]["model"]


_KINDS = {"torch": "torch", "linen": "Linen", "nnx": "NNX", "function": "a plain function"}
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
