"""One cell of a comparison: a method, a request, its times and its audit."""

import statistics as stats
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.audit.accuracy import accuracy
from osp_jax.audit.subject import Subject
from osp_jax.comparison.plan import Request
from osp_jax.comparison.questions import accuracies, comparison_images, looks_of, measures
from osp_jax.data.augment import Preparation
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Dataset
from osp_jax.forward import predict_logits
from osp_jax.harm import recorded_harm
from osp_jax.methods.parts import door
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.methods.parts.method import Method
from osp_jax.model import Model
from osp_jax.runtime.distributed import count_compilations, peak_memory
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics, collect_statistics


class Original(NamedTuple):
    """A trained model with everything that requests need.

    `train`, `validation` index the training split; `on_device` is (images, labels) of that split; `budget` is the
    number of images per class by side ('retain', 'forget'), None for all.
    """

    model: Model
    statistics: Statistics
    dataset: Dataset
    preparation: Preparation
    recipe: dict[str, Any]
    train: np.ndarray
    validation: np.ndarray
    on_device: tuple[jax.Array, jax.Array]
    budget: dict[str, int | None]


class Answer(NamedTuple):
    """The new model; seconds from request to parameters, whether they include compilation, training images used by
    class, and peak memory above the start in bytes."""

    model: Model
    seconds: float
    compiled: bool
    seen: dict[str, int]
    peak_bytes: int | None


def answer(original: Original, method: Method, request: Request, rng: jax.Array) -> Answer:
    """Carries out a request; statistics that later steps of a sequence need are not timed."""
    model, statistics = original.model, original.statistics
    seconds, compilations, peaks, seen = 0.0, 0, [], {}
    for number, step in enumerate(request.steps):
        left = original.train[~np.isin(original.dataset.train.labels[original.train], model.forgotten)]
        if number and method.sees:  # further training changes the statistics of a network
            statistics = _statistics(original, model, left)
        data = _data(original, left, step)
        jax.block_until_ready((model.variables, statistics))
        with peak_memory() as peak, count_compilations() as compiled:
            start = time.perf_counter()
            key = jax.random.fold_in(rng, number)
            seeing = data if method.sees else None
            model = door.answer(method, model, step, data=seeing, statistics=statistics, rng=key)
            jax.block_until_ready(model.variables)
            seconds += time.perf_counter() - start
        compilations += compiled()
        peaks.append(peak())
        seen = {c: max(n, seen.get(c, 0)) for c, n in {**seen, **data.seen()}.items()}
    known = [p for p in peaks if p is not None]
    return Answer(model, seconds, compilations > 0, seen, max(known, default=None))


def timed_answer(
    original: Original, method: Method, request: Request, rng: jax.Array, limit: float
) -> tuple[Answer, dict[str, Any]]:
    """The answer, and its times: `cold` of a first call that compiled, `warm` the median of calls that did not.

    Calls are repeated until one was warm and 0.2 seconds have passed, up to 20 times. If the first takes more than
    `limit` seconds, there are no others, and the time of the other kind is None.
    """
    first = answer(original, method, request, rng)
    warm = [] if first.compiled else [first.seconds]
    while first.seconds < limit and (not warm or (sum(warm) < 0.2 and len(warm) < 20)):
        warm.append(answer(original, method, request, rng).seconds)
    cold = first.seconds if first.compiled else None
    return first, {"cold": cold, "warm": stats.median(warm) if warm else None, "calls": len(warm)}


def audit(
    original: Original, model: Model, forget: tuple[int, ...], settings: Any, *, original_accuracy: float | None
) -> dict[str, Any]:
    """`accuracy` of a model, as `accuracy_report` without the confusion matrix, and, if the settings ask for them,
    `measures` of its remaining knowledge of the class (`questions.py`).

    Args:
      settings: `config.audit` of a comparison.
      original_accuracy: accuracy of the original on the forgotten test images; None: the model is the original.
    """
    images = comparison_images(
        original.dataset,
        original.train,
        forget,
        test_images=settings.test_images,
        train_images=settings.train_images,
    )
    moments = {"mean": tuple(map(float, model.mean)), "std": tuple(map(float, model.std))}
    subject = Subject(model, original.preparation._replace(**moments))
    looks = looks_of(subject, images)
    found = {"accuracy": accuracies(looks, forget)}
    if settings.questions:
        goal = found["accuracy"]["test_forget_accuracy"] if original_accuracy is None else original_accuracy
        found["measures"] = measures(subject, looks, images, original_accuracy=goal, steps=settings.relearning_steps)
    return found


def harm(original: Original, model: Model, forget: tuple[int, ...]) -> dict[str, Any] | None:
    """The result of `estimate_harm` for a request; None if it cannot be estimated."""
    train = original.dataset.train
    images = {"images": train.images, "labels": train.labels}
    return recorded_harm(original.model, model, forget, statistics=original.statistics, **images)


def validation_score(original: Original, model: Model, forget: tuple[int, ...]) -> dict[str, float]:
    """Accuracies on the held-out training images, and the `score` that selects settings: retained accuracy times one
    minus forget accuracy (Kodge et al., TMLR 2024, use training images)."""
    split, held_out = original.dataset.train, original.validation
    predictions, labels = predict_logits(model, split, held_out).argmax(-1), split.labels[held_out]
    forgotten = np.isin(labels, list(forget))
    retain, lost = accuracy(predictions, labels, ~forgotten), accuracy(predictions, labels, forgotten)
    finite = all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(model.variables))
    score = retain * (1 - lost) if finite else 0.0
    return {"retain_accuracy": retain, "forget_accuracy": lost, "score": score}


def attempt(work: Callable[[], dict[str, Any]], log: Path) -> dict[str, Any]:
    """The result of `work`, or `{'error': ...}`, so that the other methods of a comparison still run.

    Refused settings, numbers that are not finite and exhausted memory are results. Any other error is a bug: its
    traceback is appended to the file `log`, which the row names.
    """
    try:
        return work()
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if _is_result(error):
            return {"error": words}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")
        return {"error": f"{words} (traceback in {log.name})"}


def _is_result(error: Exception) -> bool:
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, InputError | MemoryError | FloatingPointError)


def _data(original: Original, indices: np.ndarray, forget: tuple[int, ...]) -> RequestData:
    budget = {f"{side}_per_class": number for side, number in original.budget.items()}
    given = original.dataset.train, indices, forget, original.preparation, original.recipe
    return request_data(*given, **budget, on_device=original.on_device)


def _statistics(original: Original, model: Model, indices: np.ndarray) -> Statistics:
    batches = index_batches(original.dataset.train, indices, 256)
    return collect_statistics(model, batches, keep_features=len(original.statistics.labels))
