"""Estimates the cost of a request to forget before its result is used.

A method can fail on a network: the model still recognises the class, or loses accuracy on the others. The estimate
compares the models before and after the request on stored features if these show the change, else on stored inputs of
the last kernels if the change reaches no further, else on images.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from osp_jax.data.sources import Split
from osp_jax.data.splits import per_class_sample
from osp_jax.forward import predict_logits
from osp_jax.methods import METHODS
from osp_jax.methods.parts.head import head_of
from osp_jax.model import Model
from osp_jax.program.gates import Head
from osp_jax.runtime.errors import REFUSED, InputError
from osp_jax.statistics import Statistics
from osp_jax.stored_features import StoredFeatures, stored_features

MAX_RETAINED_DROP, MAX_FORGOTTEN = 2.0, 1.0
_MOST = {"retain": 1000, "forget": 500}  # images evaluated
_SUGGESTED = ("osp-fit", "concept-erasure", "subspace", "logit-mask")  # methods without training steps
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Harm:
    """The cost of a request, estimated on a sample of images.

    Attributes:
      forgotten: share, 0..1, of the images of the classes to forget that are still recognised as their own class.
      retained_before, retained_after: accuracy on images of the other classes, 0..1, without classes forgotten earlier.
      forget_images, retain_images: numbers of images.
      source: the data of the estimate: stored 'features', 'cached inputs' of the last kernels, or 'images'.
    """

    forgotten: float
    retained_before: float
    retained_after: float
    forget_images: int
    retain_images: int
    source: str

    @property
    def retained_drop(self) -> float:
        """The drop in accuracy on the other classes, in points."""
        return 100 * (self.retained_before - self.retained_after)

    def within(self, max_retained_drop: float, max_forgotten: float) -> bool:
        """Whether both figures are within the limits, in points and percent."""
        # The tolerance covers rounding; shares of images are far coarser.
        return self.retained_drop <= max_retained_drop + 1e-9 and 100 * self.forgotten <= max_forgotten + 1e-9


class HarmError(InputError):
    """A refused request: it exceeds a limit. `harm` has the figures; `result` is the refused result, or None."""

    exit_code = REFUSED

    def __init__(self, message: str, harm: Harm, result: Any = None):
        super().__init__(message)
        self.harm, self.result = harm, result


def estimate_harm(
    before: Model,
    after: Model,
    forget: Sequence[int],
    *,
    statistics: Statistics | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Harm:
    """Compares the models before and after a request on a sample of images.

    Args:
      forget: class numbers.
      statistics: statistics of the model before, with stored features; if these show the change, no image is used.
        Ignored for a model that has forgotten classes: they may be older than its masks.
      images: uint8 `(n, h, w, c)`; at most 1,000 of retained classes and 500 of those to forget are used, the same
        number of each class.
      labels: int `(n,)`.

    Raises:
      InputError: neither statistics nor images show the change, or they lack images to forget or to retain.
    """
    for answers in (
        lambda: _from_stored(before, after, statistics),
        lambda: _from_images(before, after, forget, images, labels),
    ):
        found = answers()
        if found is not None and (harm := _compared(found, forget, before.forgotten)):
            return harm
    raise InputError(
        "the cost of the request cannot be estimated from the statistics; give examples of retained classes and of "
        "those to forget (--data_dir, or data), or accept it without an estimate (--accept, or accept=True)"
    )


def check_harm(
    harm: Harm,
    *,
    max_retained_drop: float = MAX_RETAINED_DROP,
    max_forgotten: float = MAX_FORGOTTEN,
    suggestions: Sequence[str] = (),
    result: Any = None,
) -> None:
    """Raises `HarmError` if a request costs more than the limits allow.

    Args:
      max_retained_drop: points by which the accuracy on the other classes may fall.
      max_forgotten: percent of the images of the classes to forget that may still be recognised.
      suggestions: names of methods to try, for the message (`methods_to_try`).
      result: the refused result, for the error.

    Raises:
      HarmError: with the figures, the limits and the suggestions.
      InputError: a limit is not a number of at least 0.
    """
    check_limits(max_retained_drop, max_forgotten)
    if harm.within(max_retained_drop, max_forgotten):
        return
    remedy = f"try {_listed(suggestions)}, or accept" if suggestions else "try another method, or accept"
    words = harm_words(harm, max_retained_drop=max_retained_drop, max_forgotten=max_forgotten)
    raise HarmError(f"refused: {words}; {remedy} it with --accept (accept=True)", harm, result)


def harm_words(harm: Harm, *, max_retained_drop: float, max_forgotten: float) -> str:
    """The figures and the limits, as a clause."""
    return (
        f"{100 * harm.forgotten:.1f}% of {harm.forget_images:,} examples to forget are still recognised (limit "
        f"{max_forgotten:g}%), and the accuracy on {harm.retain_images:,} others changes from "
        f"{100 * harm.retained_before:.1f}% to {100 * harm.retained_after:.1f}% (limit: a drop of "
        f"{max_retained_drop:g} points)"
    )


def check_limits(max_retained_drop: float, max_forgotten: float) -> None:
    """Raises `InputError` for a limit that is not a number of at least 0."""
    for name, limit in (("max_retained_drop", max_retained_drop), ("max_forgotten", max_forgotten)):
        if isinstance(limit, bool) or not isinstance(limit, int | float) or math.isnan(limit) or limit < 0:
            raise InputError(f"{name} is {limit!r}; give a number of at least 0, in points or percent")


def harm_record(harm: Harm | None, *, max_retained_drop: float, max_forgotten: float, accepted: bool) -> dict[str, Any]:
    """The figures, the limits and whether they were overridden, JSON-ready; figures are None without an estimate."""
    names = [field.name for field in dataclasses.fields(Harm)]
    figures = dataclasses.asdict(harm) if harm else dict.fromkeys(names)
    return {
        **figures,
        "max_retained_drop": float(max_retained_drop),
        "max_forgotten": float(max_forgotten),
        "accepted": accepted,
    }


def recorded_harm(before: Model, after: Model, forget: Sequence[int], **given: Any) -> dict[str, Any] | None:
    """The figures of `estimate_harm`, JSON-ready; None if they cannot be estimated."""
    try:
        return dataclasses.asdict(estimate_harm(before, after, forget, **given))
    except InputError:
        return None


def methods_to_try(model: Model, statistics: Statistics, tried: str = "") -> tuple[str, ...]:
    """Names of methods without training steps that support this network, except `tried`."""
    return tuple(name for name in _SUGGESTED if name != tried and name in METHODS and _fits(name, model, statistics))


def _fits(name: str, model: Model, statistics: Statistics) -> bool:
    try:
        METHODS[name]().check(model, statistics.gates)
    except InputError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# The answers of both models


class _Answers(NamedTuple):
    """Logits `(n, classes)` of both models, labels `(n,)`, and their source."""

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray
    source: str


def _compared(answers: _Answers, forget: Sequence[int], gone: Sequence[int]) -> Harm | None:
    """None if there are no images to forget or none to retain."""
    chosen = np.isin(answers.labels, list(forget))
    others = ~chosen & ~np.isin(answers.labels, list(gone)) & (answers.labels >= 0)
    if not chosen.any() or not others.any():
        return None
    before, after = (_predicted(logits) == answers.labels for logits in (answers.before, answers.after))
    forgotten, kept_before, kept_after = (
        float(right.mean()) for right in (after[chosen], before[others], after[others])
    )
    return Harm(forgotten, kept_before, kept_after, int(chosen.sum()), int(others.sum()), answers.source)


def _predicted(logits: np.ndarray) -> np.ndarray:
    """The class of the largest logit; -1 if that is not finite."""
    return np.where(np.isfinite(logits.max(-1)), logits.argmax(-1), -1)


def harm_of_features(
    before: Model, after: Model, forget: Sequence[int], found: StoredFeatures, head: Head
) -> Harm | None:
    """The cost of a request, from inputs of the head in both models; None without images to forget or to retain."""
    return _compared(_answers_of(before, after, found, head), forget, before.forgotten)


def _from_stored(before: Model, after: Model, statistics: Statistics | None) -> _Answers | None:
    found = stored_features(before, after, statistics)
    if found is None or statistics is None:
        return None
    return _answers_of(before, after, found, statistics.gates.head)


def _answers_of(before: Model, after: Model, found: StoredFeatures, head: Head) -> _Answers:
    old, new = (_logits(model, head, features) for model, features in ((before, found.before), (after, found.after)))
    return _Answers(old, new, found.labels, found.source)


def _from_images(
    before: Model, after: Model, forget: Sequence[int], images: np.ndarray | None, labels: np.ndarray | None
) -> _Answers | None:
    if images is None or labels is None or not len(labels):
        return None
    split = Split(images, np.asarray(labels))
    to_forget = np.isin(split.labels, list(forget))
    known = ~to_forget & ~np.isin(split.labels, list(before.forgotten))
    sides = (np.flatnonzero(chosen) for chosen in (known, to_forget))
    indices = np.concatenate(
        [
            per_class_sample(split.labels, side, most, seed=0)[:most]
            for side, most in zip(sides, _MOST.values(), strict=True)
            if len(side)
        ]
    )
    old, new = (predict_logits(model, split, indices, _BATCH) for model in (before, after))
    return _Answers(old, new, split.labels[indices], "images")


def _logits(model: Model, head: Head, features: np.ndarray) -> np.ndarray:
    """features `(n, f)` -> logits `(n, classes)`, in float32 on the host."""
    kernel, bias = (np.asarray(array, np.float32) for array in head_of(model.variables, head))
    return features @ kernel + bias
