"""Forgets classes of a trained model separately with each method: accuracy, time, and probes of the features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from osp_jax.audit.accuracy import accuracy
from osp_jax.audit.probes import probes
from osp_jax.audit.subject import Subject, images_of, look_at
from osp_jax.data.sources import Dataset, Split
from osp_jax.harm import recorded_harm
from osp_jax.loading import TrainedModel, indices_of
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.request import timed_request
from osp_jax.model import Model
from osp_jax.program.prefix import Prefix, compute_prefix, logits_from
from osp_jax.runtime import records
from osp_jax.runtime.distributed import place
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.statistics import Statistics
from osp_jax.trees import differing_paths
from osp_jax.workdir_requests import request_data_of

_LIMIT = 60.0  # seconds; longer requests are not repeated

Predict = Callable[[Model], np.ndarray]


def predictor(original: Model, split: Split, indices: np.ndarray) -> Predict:
    """A function from a model to its predicted classes `(n,)` for the images `indices` of a split.

    Values that do not depend on parameters that differ from the original's are computed once and cached.
    """
    prefixes: dict[frozenset[str], Prefix] = {}

    def predict(model: Model) -> np.ndarray:
        changed = frozenset(differing_paths(original.variables, [model.variables]))
        known = next((leaves for leaves in prefixes if leaves >= changed), None)
        if known is None:
            prefixes[known := changed] = compute_prefix(original, split, indices, changed)
        return logits_from(prefixes[known], model.variables).argmax(-1)

    return predict


def forget_each_class(
    trained: TrainedModel,
    dataset: Dataset,
    statistics: Statistics,
    methods: Mapping[str, Method],
    classes: Sequence[int],
    split: Split,
    indices: np.ndarray,
    *,
    features: bool,
    seed: int,
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Yields one row per class: `class`, `name`, and for 'original' and each method accuracies, seconds and harm.

    Images of already forgotten classes are left out.

    Args:
      methods: by name.
      classes: to forget, each separately.
      split, indices: the evaluation images.
      features: whether to also fit a probe and a new head to the last features.
      folder: stores each finished row, which is not computed again.
    """
    train, _ = indices_of(trained, dataset)
    original = trained.model
    indices = indices[~np.isin(split.labels[indices], original.forgotten)]
    labels, predict, rng = split.labels[indices], predictor(original, split, indices), jax.random.key(seed)
    on_device = place((dataset.train.images, dataset.train.labels))

    def judged(model: Model, predicted: np.ndarray, forgotten: int) -> dict[str, float]:
        of_class = labels == forgotten
        found = {
            "forget_accuracy": accuracy(predicted, labels, of_class),
            "retain_accuracy": accuracy(predicted, labels, ~of_class),
        }
        return found | (readable(model, forgotten) if features else {})

    def readable(model: Model, forgotten: int) -> dict[str, float]:
        """Balanced accuracy of a linear probe, and forget accuracy of a new head; both fitted on training images."""
        subject = Subject(model, trained.preparation)
        fitted = images_of(dataset, train, (forgotten,), 1000, seed=0).parts
        of_class = labels == forgotten
        looks = {
            "train_forget": look_at(subject, dataset.train, fitted["train_forget"]),
            "train_retain": look_at(subject, dataset.train, fitted["train_retain"]),
            "test_forget": look_at(subject, split, indices[of_class]),
            "test_retain": look_at(subject, split, indices[~of_class]),
        }
        last = statistics.gates.last.name
        found = probes(looks, [last])
        return {"probe": found[f"linear_{last}"]["value"], "new_head": found["new_head_forget_accuracy"]["value"]}

    images = {"images": dataset.train.images, "labels": dataset.train.labels}
    before = predict(original)
    folder.mkdir(parents=True, exist_ok=True)
    for forgotten in classes:
        path = folder / f"{forgotten}.json"
        if path.exists():
            yield records.row(read_piece(path), path, methods)
            continue
        class_name = dataset.class_names[forgotten]
        row = {"class": forgotten, "name": class_name, "original": judged(original, before, forgotten)}
        for name, method in methods.items():
            data = request_data_of(trained, dataset, (forgotten,), on_device=on_device) if method.sees else None
            times = {"warm_calls": 0 if name == "retrain" else 100, "warm_seconds": 1.0, "limit": _LIMIT}
            outcome = timed_request(method, original, (forgotten,), statistics, rng, data=data, **times)
            after = judged(outcome.model, predict(outcome.model), forgotten)
            harm = recorded_harm(original, outcome.model, (forgotten,), statistics=statistics, **images)
            row[name] = {**after, "warm_seconds": outcome.warm_median, "harm": harm}
        write_piece(path, row)
        yield row
