"""Requests to a workdir's model: whether its recipe suffices, the data that a request may use, and its harm."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from osp_jax.data.sources import Dataset, Split
from osp_jax.harm import Harm, estimate_harm
from osp_jax.loading import KINDS, TrainedModel, indices_of
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.methods.parts.method import Method
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics


def check_recipe(trained: TrainedModel, method: Method, name: str) -> None:
    """Checks that a workdir has the recipe and the train mode that a method needs.

    Args:
      name: name of the method.

    Raises:
      InputError: the method trains and the recipe is unknown or the network has no train mode, or the method starts
        from new variables and the network cannot be initialised.
    """
    network, model = trained.record.get("network"), trained.model
    if not network or not (method.trains or method.starts_over):
        return
    if not network["recipe"]:
        raise InputError(
            f"{name} trains, and the recipe of this network is unknown: import it again with --recipe=configs/..., "
            "or take a method that does not train, such as osp-fit"
        )
    if method.starts_over and model.init is None:
        raise InputError(
            f"{name} starts from new variables, which {KINDS[network['framework']]} network cannot initialise here: "
            "retrain it without the class in its own framework and import the result with --exclude, as a --reference "
            "for experiments.eval, or take another method"
        )
    if method.trains and model.train_apply is None:
        raise InputError(
            f"{name} trains, and {KINDS[network['framework']]} network has no train mode here; take a method that "
            "does not train, such as osp-fit"
        )


def request_data_of(
    trained: TrainedModel,
    dataset: Dataset,
    forget: tuple[int, ...],
    budget: Mapping[str, int | None] | None = None,
    on_device: tuple[jax.Array, jax.Array] | None = None,
) -> RequestData:
    """The images of `indices_of` that a request to forget may use; `budget` and `on_device` as in `request_data`."""
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
    """The data that a request may use, or None; calls `dataset`, which reads the images, only if they are needed."""
    if method.needs_images(statistics):
        return request_data_of(trained, dataset(), forget, budget)
    return request_without_images(trained, forget) if method.sees else None


def request_without_images(trained: TrainedModel, forget: tuple[int, ...]) -> RequestData:
    """Data for a request that statistics answer: the recipe and the image shape, but no image."""
    recipe, shape = trained.record["config"], trained.record["dataset"]["image_shape"]
    return request_data(Split.empty(shape), np.zeros(0, np.int32), forget, trained.preparation, recipe)


def harm_of_request(
    trained: TrainedModel,
    after: Model,
    forget: tuple[int, ...],
    statistics: Statistics,
    dataset: Callable[[], Dataset] | None,
    *,
    accept: bool = False,
) -> Harm | None:
    """The cost of a request to a workdir's model, from the statistics if possible.

    Args:
      dataset: reads the images; called only if the statistics do not show the cost. None, for an accepted request: no
        images are read.
      accept: whether the request is accepted at any cost.

    Returns:
      the estimate; None if the request is accepted and its cost cannot be estimated.

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
            f"the statistics do not show the cost of the request, and the data cannot be read ({error}); give "
            "--data_dir, or accept the request without an estimate (--accept)"
        ) from error
    try:
        return estimate(images=split.images, labels=split.labels)
    except InputError:
        if accept:
            return None
        raise
