"""The public functions for data, class statistics and requests to forget; the audit is in `api_audit.py`.

model = osp_jax.from_linen(module, variables, mean=mean, std=std, class_names=names)
statistics = osp_jax.collect_statistics(model, images, labels)
result = osp_jax.unlearn(model, forget=["cat"], method="osp-fit", statistics=statistics)
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.api_arguments import (
    check_fits,
    check_request,
    check_same_request,
    check_statistics,
    check_whole,
    class_numbers,
    given_preparation,
    method_of,
    numbers_of,
    split_of_data,
)
from osp_jax.data.augment import Preparation
from osp_jax.data.given import split_of
from osp_jax.data.sources import Dataset, Split
from osp_jax.data.sources import load_data as read_data
from osp_jax.data.splits import check_in_turn, without_classes
from osp_jax.harm import (
    MAX_FORGOTTEN,
    MAX_RETAINED_DROP,
    Harm,
    check_harm,
    estimate_harm,
    harm_record,
    methods_to_try,
)
from osp_jax.methods import Method, method_name
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.methods.parts.door import check_model
from osp_jax.methods.parts.request import Outcome, describe_change, images_seen, timed_request
from osp_jax.model import Model
from osp_jax.prepared.classes import Prepared, fingerprint, prepare_class, request_settings
from osp_jax.prepared.requests import Answer, answer_from, prepared_record
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import MOST_SEED
from osp_jax.statistics import Statistics, statistics_over

PadMode = Literal["reflect", "zeros"]


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a request.

    Attributes:
      model: the new model; `model.forgotten` includes the classes of the request.
      report: the request, its changes, cost and time, JSON-ready, with the fields of `unlearn.json`.
    """

    model: Model
    report: dict[str, Any]

    @property
    def data_seen(self) -> dict[str, Any]:
        """How many training images of each class (its number, as text) the request and the statistics used."""
        return self.report["data_seen"]


def load_data(
    name: str,
    *,
    image_size: int = 0,
    channels: int = 0,
    class_names: Sequence[str] = (),
    validation: float = 0.0,
    data_dir: str | os.PathLike = "",
) -> Dataset:
    """Reads labelled images from a folder, an npz file or a TFDS data set.

    Args:
      name: 'folder:PATH', 'npz:FILE', 'digits', or the name of a TFDS image classification set.
      image_size: crops each image to its central square and resizes it to this side, in pixels; 0: no change.
      channels: 1 converts to greyscale, 3 to colour; 0: no change.
      class_names: the classes in the order of the network's logits; empty: sorted by name, or the order of the set.
      validation: the share of each class that becomes the test split of a folder or file without one.
      data_dir: the TFDS folder; empty: `TFDS_DATA_DIR`, else the default of TFDS.

    Returns:
      `train.images` and `test.images`, uint8 `(n, height, width, channels)`; `train.labels` and `test.labels`, int32
      `(n,)`; and `class_names`.

    Raises:
      InputError: an unknown set, a folder without classes, a damaged image, images of different sizes or other classes.
    """
    names = class_names
    if not isinstance(names, str) and isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
        names = ",".join('"{}"'.format(name.replace('"', '""')) for name in names)
    settings = {"image_size": image_size, "channels": channels, "class_names": names, "validation": validation}
    return read_data({"name": name, "dir": os.fspath(data_dir), **settings})


def collect_statistics(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = 256,
    features: int = 4000,
    cached_inputs: int = 0,
    seed: int = 0,
) -> Statistics:
    """Collects the statistics that requests to forget use, in one pass over the training images.

        statistics = osp_jax.collect_statistics(model, images, labels)

    Args:
      images: uint8 `(n, h, w, c)`, values 0..255; they are normalised by `model.mean` and `model.std`.
      labels: int `(n,)`, class numbers. Images of forgotten classes are left out.
      batch_size: images per forward pass.
      features: number of images whose head inputs are kept, the same number of each class.
      cached_inputs: number of these whose inputs of the last kernels are kept too; `concept-erasure` then needs no
        images.
      seed: seed of this sample.

    Returns:
      Per-class sums `(classes, channels)` of every group of channels that can be gated, float32; `features`
      `(features, f)` and `labels` `(features,)` of the sample.

    Raises:
      InputError: images or labels have the wrong type or shape, a class number is out of range, or the network cannot
        take the images or has no channel that can be gated.
    """
    check_model(model)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("features", features, 0),
        ("cached_inputs", cached_inputs, 0),
    ):
        check_whole(name, value, least)
    check_whole("seed", seed, 0, MOST_SEED)
    split = split_of(images, labels, model.num_classes)
    check_fits(model, split)
    settings = {"batch_size": batch_size, "features": features, "cached_inputs": cached_inputs}
    return statistics_over(model, split, without_classes(split.labels, model.forgotten), settings, seed)


def prepare(
    model: Model,
    classes: Sequence[int | str] | int | str | None = None,
    method: str | Method = "osp-fit",
    *,
    statistics: Statistics | None = None,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    retain_per_class: int | None = None,
    forget_per_class: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    pad: int = 0,
    flip: bool = False,
    cutout: int = 0,
    pad_mode: PadMode = "reflect",
    seed: int = 0,
) -> Prepared:
    """Computes requests in advance, so that `unlearn` only looks them up.

        prepared = osp_jax.prepare(model, statistics=statistics)
        result = osp_jax.unlearn(model, ["cat"], prepared=prepared)

    The result holds the changes of each request and its cost. It describes the class: delete it along with the class.
    A request gives a new model, so prepare the other classes again after it.

    Args:
      model: the model that requests will change.
      classes: names or numbers; None: all that the model has not forgotten.
      method, statistics, data, retain_per_class, forget_per_class, recipe, pad, flip, cutout, pad_mode, seed: as in
        `unlearn`, for each request.

    Returns:
      `prepared.classes` by class number, each with `changes` by leaf path, `harm`, `seconds` and `nbytes`.

    Raises:
      InputError: as in `unlearn`, for the first class that cannot be prepared.
    """
    check_model(model)
    numbers = model.known if classes is None else numbers_of(classes, model)
    check_in_turn(numbers, model.num_classes, model.forgotten, model.class_names)
    method = method_of(method)
    check_request(seed, False, MAX_RETAINED_DROP, MAX_FORGOTTEN, retain_per_class, forget_per_class)
    preparation = given_preparation(model, pad, flip, cutout, pad_mode)
    split = split_of_data(model, data)
    if statistics is None:
        statistics = _collected(model, split)
    budget = {"retain_per_class": retain_per_class, "forget_per_class": forget_per_class}
    for number in numbers:
        check_statistics(model, statistics, (number,))
    statistics, found = statistics.without(model.forgotten), {}
    for number in numbers:
        seen = _request_data(model, method, (number,), split, statistics, preparation, recipe, budget)
        estimate = partial(_estimated, model, forget=(number,), statistics=statistics, split=split, accept=True)
        given: dict[str, Any] = {"data": seen, "statistics": statistics, "seed": seed, "estimate": estimate}
        found[number] = prepare_class(method, model, number, **given)
    return Prepared(method, fingerprint(model), request_settings(method, budget, seed), found, statistics)


def unlearn(
    model: Model,
    forget: Sequence[int | str] | int | str,
    method: str | Method | None = None,
    *,
    prepared: Prepared | None = None,
    statistics: Statistics | None = None,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    retain_per_class: int | None = None,
    forget_per_class: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    pad: int = 0,
    flip: bool = False,
    cutout: int = 0,
    pad_mode: PadMode = "reflect",
    seed: int = 0,
    accept: bool = False,
    max_retained_drop: float = MAX_RETAINED_DROP,
    max_forgotten: float = MAX_FORGOTTEN,
) -> Result:
    """Makes a model forget classes; raises `HarmError` instead of returning a model that exceeds the limits.

        result = osp_jax.unlearn(model, ["cat"], "osp-fit", statistics=statistics)
        result = osp_jax.unlearn(model, [3], OspFit(margin=2.0), statistics=statistics)
        result = osp_jax.unlearn(model, ["cat"], "scrub", data=(images, labels), flip=True, pad=4)
        result = osp_jax.unlearn(model, ["cat"], prepared=osp_jax.prepare(model, statistics=statistics))

    Args:
      model: the trained model; it is not modified.
      forget: names or numbers of classes.
      method: a name in `osp_jax.methods.METHODS`, or a method with its settings; None: that of `prepared`, or osp-fit.
      prepared: what `prepare` returned for this model, method and settings. A request for one class is looked up. A
        request for several combines and repairs their changes, or is computed if that would exceed the limits.
      statistics: what `collect_statistics` returns; None: those of `prepared`, or collected from `data`.
      data: `(images, labels)` of the training split, uint8 `(n, h, w, c)` and int `(n,)`, for methods that use images.
      retain_per_class, forget_per_class: how many images of each class the method may use; None: all.
      recipe: the training settings, for methods that need them: a mapping like `configs/default.py`.
      pad, flip, cutout, pad_mode: augmentation for methods that train: random crops after padding by `pad` pixels
        ('reflect' or 'zeros'), horizontal flips, and a blank square of `cutout` pixels.
      seed: seed for methods that draw random numbers.
      accept: whether to return the model at any cost.
      max_retained_drop: points by which the accuracy on the other classes may fall.
      max_forgotten: percent of the images of the classes to forget that may still be recognised.

    Returns:
      `model`, which has forgotten the classes, and `report`.

    Raises:
      HarmError: the estimated cost exceeds a limit; `harm` has the figures, `result` the refused result.
      InputError: an unknown class, method or setting; data that are missing or have the wrong type or shape; a method
        that does not support this network; or requests prepared for another model or other settings.
    """
    check_model(model)
    forget = class_numbers(forget, model)
    method = method_of(_default_method(prepared) if method is None else method)
    check_request(seed, accept, max_retained_drop, max_forgotten, retain_per_class, forget_per_class)
    preparation = given_preparation(model, pad, flip, cutout, pad_mode)
    budget = {"retain_per_class": retain_per_class, "forget_per_class": forget_per_class}
    limits = {"max_retained_drop": max_retained_drop, "max_forgotten": max_forgotten}
    settings = request_settings(method, budget, seed)
    if prepared is not None:
        check_same_request(prepared, settings)
        statistics = prepared.statistics if statistics is None else statistics
        found = answer_from(prepared, model, forget, statistics, None if accept else limits)
        if found is not None and found.harm is None and not accept:
            split = split_of_data(model, data)
            found = found._replace(harm=_estimated(model, found.outcome.model, forget, statistics, split, accept))
        if found is not None:
            return _prepared_result(prepared, model, forget, found, statistics, limits, accept)
    split = split_of_data(model, data)
    start, stored = time.perf_counter(), statistics is not None
    if statistics is None:
        statistics = _collected(model, split)
    check_statistics(model, statistics, forget)
    statistics = statistics.without(model.forgotten)
    jax.block_until_ready(statistics)
    seconds = time.perf_counter() - start
    seen = _request_data(model, method, forget, split, statistics, preparation, recipe, budget)

    outcome = timed_request(method, model, forget, statistics, jax.random.key(seed), data=seen)
    harm = _estimated(model, outcome.model, forget, statistics, split, accept)
    report = {
        **_about_request(model, forget, outcome, settings, stored=stored),
        "seconds": {"statistics": seconds, "cold": seconds + outcome.cold},
        "data_seen": _seen(seen, statistics),
        "prepared": None,
        **describe_change(model, outcome.model, forget, statistics, method),
        "harm": harm_record(harm, **limits, accepted=accept),
        "provenance": provenance(seed),
    }
    return _unless_harm(Result(outcome.model, report), harm, limits, accept, model, method, statistics)


def _default_method(prepared: Any) -> Any:
    return prepared.method if isinstance(prepared, Prepared) else "osp-fit"


def _collected(model: Model, split: Split | None) -> Statistics:
    if split is None:
        raise InputError("there are neither statistics nor data; give statistics=collect_statistics(...), or data")
    return collect_statistics(model, cast(np.ndarray, split.images), split.labels)  # those that a user gave


def _prepared_result(
    prepared: Prepared,
    model: Model,
    forget: tuple[int, ...],
    found: Answer,
    statistics: Statistics | None,
    limits: Mapping[str, float],
    accept: bool,
) -> Result:
    report = {
        **_about_request(model, forget, found.outcome, prepared.settings, stored=statistics is not None),
        "seconds": {"statistics": 0.0, "cold": found.outcome.cold},
        "data_seen": _seen(None, statistics),
        "prepared": prepared_record(prepared, found, forget),
        **found.description,
        "harm": harm_record(found.harm, **limits, accepted=accept),
        "provenance": provenance(prepared.settings["seed"]),
    }
    result = Result(found.outcome.model, report)
    return _unless_harm(result, found.harm, limits, accept, model, prepared.method, statistics)


def _about_request(
    model: Model, forget: tuple[int, ...], outcome: Outcome, settings: Mapping[str, Any], *, stored: bool
) -> dict[str, Any]:
    """The common fields of a request's report; `settings` as `request_settings` returns them."""
    return {
        "method": settings["method"],
        "options": settings["options"],
        "budget": settings["budget"],
        "forget": list(forget),
        "forget_names": [model.class_names[c] for c in forget],
        "forgotten": list(outcome.model.forgotten),
        "statistics_stored": stored,
    }


def _seen(data: RequestData | None, statistics: Statistics | None) -> dict[str, Any]:
    """The numbers of training images that a request and its statistics used."""
    return {
        "request": {"train": data.seen() if data else {}},
        "statistics": {"train": images_seen(statistics) if statistics is not None else {}},
    }


def _unless_harm(
    result: Result,
    harm: Harm | None,
    limits: Mapping[str, float],
    accept: bool,
    model: Model,
    method: Method,
    statistics: Statistics | None,
) -> Result:
    """Returns `result`; raises `HarmError` if it exceeds the limits and is not accepted."""
    if harm is not None and not accept and not harm.within(**limits):
        suggestions = methods_to_try(model, statistics, method_name(method)) if statistics is not None else ()
        check_harm(harm, **limits, suggestions=suggestions, result=result)
    return result


def _request_data(
    model: Model,
    method: Method,
    forget: tuple[int, ...],
    split: Split | None,
    statistics: Statistics,
    preparation: Preparation,
    recipe: Mapping[str, Any] | None,
    budget: Mapping[str, Any],
) -> RequestData | None:
    if recipe is not None and not isinstance(recipe, Mapping | ConfigDict):
        raise InputError(f"recipe is {shown(recipe)}; give a mapping like that of configs/default.py")
    if not method.sees:
        return None
    if split is None and not method.needs_images(statistics) and statistics.image_shape:
        split = Split.empty(statistics.image_shape)
    if split is None:
        raise InputError(
            f"{method_name(method)} needs {' and '.join(method.sees)} examples; give data=(images, labels), or take "
            "another method, such as osp-fit"
        )
    return request_data(split, without_classes(split.labels, model.forgotten), forget, preparation, recipe, **budget)


def _estimated(
    model: Model,
    after: Model,
    forget: tuple[int, ...],
    statistics: Statistics | None,
    split: Split | None,
    accept: bool,
) -> Harm | None:
    """The harm; None if the request is accepted and its harm cannot be estimated."""
    given: dict[str, Any] = {"images": split.images, "labels": split.labels} if split else {}
    try:
        return estimate_harm(model, after, forget, statistics=statistics, **given)
    except InputError:
        if accept:
            return None
        raise
