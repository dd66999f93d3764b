"""Audits a federated model: its performance on forgotten and other images, and its distance from a retrained model."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from osp_jax.audit.accuracy import predictions_of
from osp_jax.data.dataset import Dataset, Split
from osp_jax.federated.attacks import Attack, swapped, triggered
from osp_jax.federated.client import ClientData
from osp_jax.federated.requests import Request
from osp_jax.forward import predict_logits
from osp_jax.model import Model


class AuditImages(NamedTuple):
    """The images of an audit, with the labels that count as correct.

    Attributes:
      forgotten: the images to forget: test images of a class; training images of a client or of samples; for an attack,
        the poisoned training images with the labels of the attackers.
      others: test images, without those of a forgotten class.
      attack: for an attack, its target test images with the labels that it aims for; else None.
      compared: training images on which the output is compared with that of the retrained model.
    """

    forgotten: Split
    others: Split
    attack: Split | None
    compared: Split


def audit_images(
    dataset: Dataset, clients: ClientData, request: Request, attack: Attack | None = None, poisoned: Any = None
) -> AuditImages:
    """The images for a request; `poisoned`, bool `(clients, n)`, marks those of an attack in the stacked `clients`."""
    test = dataset.test
    forgotten = _of(clients, request.forget & clients.present)
    if attack is not None:
        bad = _of(clients, poisoned & clients.present)
        return AuditImages(bad, test, _aimed_at(test, attack), bad)
    if request.level == "class":
        gone = np.isin(test.labels, request.classes)
        return AuditImages(_part(test, gone), _part(test, ~gone), None, forgotten)
    return AuditImages(forgotten, test, None, forgotten)


def audit_logits(model: Model, asked: AuditImages) -> dict[str, np.ndarray | None]:
    """Logits float32 `(n, classes)` of a model for each field of `asked`."""
    given = asked._asdict()
    return {
        name: None if split is None else predict_logits(model, split, np.arange(len(split.labels)))
        for name, split in given.items()
    }


def figures(
    answers: dict[str, np.ndarray | None], asked: AuditImages, retrained: dict[str, np.ndarray | None]
) -> dict[str, float | None]:
    """JSON-ready: accuracies on the images of `asked`, and mean Jensen-Shannon divergences from the retrained model.

    `distance` is over the images of `compared`, `distance_others` over the other test images, in bits, 0 to 1.
    """
    found: dict[str, float | None] = {}
    for name in ("forgotten", "others", "attack"):
        split = getattr(asked, name)
        right = None if split is None else predictions_of(answers[name]) == split.labels
        found[name] = None if right is None or not len(right) else float(right.mean())
    for name, images in (("distance", "compared"), ("distance_others", "others")):
        found[name] = mean_divergence(answers[images], retrained[images])
    return found


def mean_divergence(first: np.ndarray, second: np.ndarray) -> float:
    """The mean over images of the Jensen-Shannon divergence of two models' outputs, in bits; logits `(n, classes)`."""
    p, q = (log_softmax(np.asarray(logits, np.float64), axis=-1) for logits in (first, second))
    middle = np.logaddexp(p, q) - np.log(2)
    each = [0.5 * np.sum(np.exp(one) * (one - middle), axis=-1) for one in (p, q)]
    return float(np.maximum(sum(each), 0).mean() / np.log(2))


def soft_confusion(model: Model, split: Split, indices: np.ndarray) -> np.ndarray:
    """Sums of output probabilities `(classes, classes)`, float64, rows are true classes: shows the least certain
    classes of a model that makes no errors on these images."""
    probabilities = np.exp(log_softmax(np.asarray(predict_logits(model, split, indices), np.float64), axis=-1))
    found = np.zeros((model.num_classes, model.num_classes))
    np.add.at(found, split.labels[indices], probabilities)
    return found


def _aimed_at(test: Split, attack: Attack) -> Split:
    if attack.kind == "label-flip":
        pair = _part(test, np.isin(test.labels, (attack.first, attack.second)))
        return Split(pair.images, swapped(pair.labels, attack).astype(np.int32))
    other = _part(test, test.labels != attack.target)
    return Split(triggered(other.images, attack.side), np.full(len(other.labels), attack.target, np.int32))


def _of(clients: ClientData, chosen: np.ndarray) -> Split:
    """The chosen images of all stacked clients, as one split."""
    return Split(np.asarray(clients.images)[chosen], np.asarray(clients.labels)[chosen])


def _part(split: Split, chosen: np.ndarray) -> Split:
    return Split(split.images[np.flatnonzero(chosen)], split.labels[chosen])
