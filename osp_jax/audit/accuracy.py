"""Accuracy, confusion and predicted classes: is the class still recognised, and are the others unharmed?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osp_jax.audit.measure import Measure, measure


def predictions_of(logits: np.ndarray) -> np.ndarray:
    """The class of the largest of logits `(n, classes)`, int64 `(n,)`; -1, which is always wrong, if it is not
    finite."""
    return np.where(np.isfinite(logits.max(-1)), logits.argmax(-1), -1)


def accuracy(predictions: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> float | None:
    """Accuracy on the images in the boolean mask `chosen`; None if there are none.

    All outputs of the network count: a retained image that is assigned to a forgotten class is wrong.
    """
    return float((predictions == labels)[chosen].mean()) if chosen.any() else None


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `(classes, classes)`, int64: rows are true classes, columns predicted ones; predictions of -1 are in no
    column."""
    given = predictions >= 0
    counts = np.bincount(labels[given] * num_classes + predictions[given], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy_report(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], forget: Sequence[int]
) -> dict[str, Any]:
    """The accuracies of one model, JSON-ready, as in `eval.json`.

    Args:
      train, test: (logits `(n, classes)`, labels `(n,)`) of each split.
      forget: class numbers.
    """
    num_classes = test[0].shape[1]
    report: dict[str, Any] = {}
    for split, (logits, labels) in (("train", train), ("test", test)):
        predictions, forgotten = predictions_of(logits), np.isin(labels, list(forget))
        report[f"{split}_retain_accuracy"] = accuracy(predictions, labels, ~forgotten)
        report[f"{split}_forget_accuracy"] = accuracy(predictions, labels, forgotten)
    predictions, labels = predictions_of(test[0]), test[1]
    confusion = confusion_matrix(predictions, labels, num_classes)
    report["per_class"] = [accuracy(predictions, labels, labels == c) for c in range(num_classes)]
    report["confusion"] = confusion.tolist()
    report["forgotten_predictions"] = {
        str(c): {str(to): float(confusion[c, to] / np.sum(labels == c)) for to in np.flatnonzero(confusion[c])}
        for c in forget
    }
    report["measures"] = {}
    return report


def closeness(
    mine: Mapping[str, float], retrained: Mapping[str, float], gaps: Sequence[float | None]
) -> dict[str, Measure]:
    """How close the accuracies of a model are to those of the retrained one.

    Args:
      mine, retrained: accuracies on the parts 'train_forget', 'train_retain' and 'test_retain'.
      gaps: differences in other fractions to include in the average gap; if one is None, the gap is None.

    Returns:
      `tug_of_war` (Zhao et al., NeurIPS 2024, arXiv 2406.01257): the product of one minus each difference, 1 is
      ideal; `average_gap` (SalUn, ICLR 2024): the mean difference, 0 is ideal.
    """
    differences = [abs(mine[part] - retrained[part]) for part in ("train_forget", "train_retain", "test_retain")]
    return {
        "tug_of_war": measure(float(np.prod([1 - d for d in differences]))),
        "average_gap": measure(None if None in gaps else float(np.mean([*differences, *map(abs, gaps)]))),
    }


def without_logits(logits: np.ndarray, forget: Sequence[int]) -> np.ndarray:
    """The logits of the trivial reference: those of `forget` become minus infinity."""
    logits = logits.copy()
    logits[:, list(forget)] = -np.inf
    return logits


def f1_scores(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The harmonic mean of precision and recall by class, float64 `(classes,)`; 0 for a class that is never predicted
    correctly."""
    counts = confusion_matrix(predictions, labels, num_classes)
    right, named = np.diag(counts), np.bincount(labels, minlength=num_classes) + counts.sum(0)
    return 2 * right / np.maximum(named, 1)
