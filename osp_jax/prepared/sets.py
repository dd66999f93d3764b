"""Requests for several classes, composed of the prepared requests for each class and repaired in closed form.

The changes of two classes were computed independently. In the composition, an entry of a leaf that only one of them
changes gets its new value; if several change it, factors from 0 to 1 multiply, as masks do, and other changes add.

The repair solves for the head by ridge regression on stored inputs of the head: on retained images, the logits of the
retained classes return to their values before the request. Then the bias of each class to forget is lowered until its
logit is below the best retained one, by a margin, on every stored image of these classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from osp_jax.harm import Harm, harm_of_features
from osp_jax.methods.parts.head import head_changes, head_of
from osp_jax.model import Model
from osp_jax.prepared.changes import changed_leaves
from osp_jax.prepared.classes import Prepared, check_prepared
from osp_jax.program.gates import Head
from osp_jax.runtime.distributed import place
from osp_jax.statistics import Statistics
from osp_jax.stored_features import StoredFeatures, stored_features
from osp_jax.trees import edited, leaves_by_path

# Penalty on the change of the head, relative to the sum of squares of a feature. Chosen from 0.001 to 1 on a held-out
# half of stored features: the largest leaves least of the classes, and is closest to the head of the joint request.
_RIDGE = 1.0
_MARGIN = 1.0  # logits, as in osp-fit; without it, new images of a class exceed those stored
_MOST = 1500  # images whose last kernels are recomputed, if these change


def answer_set(
    prepared: Prepared, model: Model, forget: Sequence[int], statistics: Statistics
) -> tuple[Model, Harm] | None:
    """(the model without several prepared classes, its cost); None if the stored data do not show the cost.

    Args:
      forget: class numbers, two or more.
      statistics: statistics of the model, with stored features, or inputs of the last kernels if these change.

    Raises:
      InputError: as `check_prepared`.
    """
    check_prepared(prepared, model, forget)
    after = composed(prepared, model, forget)
    found = stored_features(model, after, statistics, _MOST)
    if found is None:
        return None
    new = repaired(model, after, forget, found, statistics.gates.head)
    harm = harm_of_features(model, new, forget, found, statistics.gates.head)
    return (new, harm) if harm else None


def composed(prepared: Prepared, model: Model, forget: Sequence[int]) -> Model:
    """The model with the changes of all classes `forget`, before the repair."""
    found = [changed_leaves(model.variables, prepared.classes[number].changes) for number in forget]
    old = leaves_by_path(model.variables)
    paths = [path for path in old if any(path in leaves for leaves in found)]
    new = {
        path: _composed(np.asarray(old[path]), [leaves[path] for leaves in found if path in leaves]) for path in paths
    }
    gone = tuple(sorted({*model.forgotten, *forget}))
    return model.replace(variables=edited(model.variables, _on_device(new, old)), forgotten=gone)


def repaired(before: Model, after: Model, forget: Sequence[int], found: StoredFeatures, head: Head) -> Model:
    """Returns `after` with a head that restores the logits of retained images and recognises no forgotten class.

    Args:
      before, after: the models of `found`.
    """
    retained = ~np.isin(found.labels, [*forget, *before.forgotten]) & (found.labels >= 0)
    others = np.setdiff1d(np.arange(before.num_classes), after.forgotten)
    kernels, biases = zip(*(_host_head(model.variables, head) for model in (before, after)), strict=True)
    kernel, bias = kernels[1].copy(), biases[1].copy()
    read = [features.astype(np.float64) for features in (found.before, found.after)]
    inputs = np.concatenate([read[1][retained], np.ones((retained.sum(), 1))], 1)
    missing = read[0][retained] @ kernels[0][:, others] + biases[0][others]
    missing -= inputs @ np.concatenate([kernel[:, others], bias[None, others]])
    if missing.any():
        products = inputs.T @ inputs
        ridge = _RIDGE * np.trace(products) / len(products)
        change = np.linalg.solve(products + ridge * np.eye(len(products)), inputs.T @ missing)
        kernel[:, others] += change[:-1]
        bias[others] += change[-1]
    if head.bias is not None:
        logits = read[1][np.isin(found.labels, list(forget))] @ kernel + bias
        over = _MARGIN + logits[:, list(forget)] - logits[:, others].max(1, keepdims=True)
        bias[list(forget)] -= np.maximum(over.max(0, initial=0), 0)
    old = leaves_by_path(after.variables)
    new = head_changes(after.variables, head, kernel.astype(np.float32), bias.astype(np.float32))
    return after.replace(variables=edited(after.variables, _on_device(new, old)))


def _composed(old: np.ndarray, new: list[np.ndarray]) -> np.ndarray:
    if len(new) == 1:
        return new[0]
    wide = old.astype(np.float64)
    with np.errstate(all="ignore"):
        ratios = [np.where(leaf == old, 1.0, leaf / wide) for leaf in new]
    are_factors = all(((ratio >= 0) & (ratio <= 1)).all() for ratio in ratios)
    sums = wide * np.prod(ratios, 0) if are_factors else wide + sum(leaf - wide for leaf in new)
    changed = [leaf != old for leaf in new]
    for leaf, here in zip(new, changed, strict=True):
        sums = np.where(here & (np.sum(changed, 0) == 1), leaf, sums)
    return sums.astype(old.dtype)


def _host_head(variables: Any, head: Head) -> tuple[np.ndarray, np.ndarray]:
    kernel, bias = head_of(variables, head)
    return np.asarray(kernel, np.float64), np.asarray(bias, np.float64)


def _on_device(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, jax.Array]:
    return place({path: np.asarray(leaf, old[path].dtype) for path, leaf in new.items()})
