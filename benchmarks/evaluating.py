"""Evaluates many requests at once: each class of a model forgotten separately, for little more than one evaluation.

Values that no request changes are computed once per batch (`split_program.py`), the others once per request. If a mask
acts on the affine parameters of a batch norm, the convolution in front of it is shared; the kernels behind it are the
same for all requests, whose activations are additional images for one convolution.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.audit.accuracy import confusion_matrix
from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.model import Model
from osp_jax.program.split_program import split_program
from osp_jax.runtime.distributed import everywhere, on_cpu
from osp_jax.trees import differing_paths, edited, leaves_by_path

# Requests at a time: the caches of CPUs do not hold the activations of several, accelerators are idle with one.
_ON_CPU, _ON_ACCELERATOR = 1, 10


def evaluate_all(
    model: Model, unlearned: Sequence[Model], split: Split, indices: np.ndarray, **options: Any
) -> np.ndarray:
    """Counts int64 `(requests, classes, classes)`: rows are true classes, columns predicted ones.

    Args:
      options: as for `predict_all`, like all other arguments.
    """
    predictions, classes = predict_all(model, unlearned, split, indices, **options), model.num_classes
    counts = [confusion_matrix(each, split.labels[indices], classes) for each in predictions]
    return np.array(counts, np.int64).reshape(-1, classes, classes)


def accuracies(counts: np.ndarray, forgets: Sequence[Sequence[int]]) -> list[dict[str, float | None]]:
    """`forget_accuracy` and `retain_accuracy` of each request; None without images.

    Args:
      counts: as `evaluate_all` returns them.
      forgets: the classes that each request forgets.
    """

    def share(counts: np.ndarray, chosen: np.ndarray) -> float | None:
        total = counts[chosen].sum()
        return float(counts.diagonal()[chosen].sum() / total) if total else None

    forgotten = [np.isin(np.arange(counts.shape[-1]), list(forget)) for forget in forgets]
    return [
        {"forget_accuracy": share(each, chosen), "retain_accuracy": share(each, ~chosen)}
        for each, chosen in zip(counts, forgotten, strict=True)
    ]


def predict_all(
    model: Model,
    unlearned: Sequence[Model],
    split: Split,
    indices: np.ndarray,
    *,
    batch_size: int = 500,
    at_once: int | None = None,
) -> np.ndarray:
    """Predicted classes int32 `(requests, n)` of the images `indices` `(n,)` of a split.

    Args:
      model: the original.
      unlearned: the result of each request, at least one. Leaves equal to the original's in all of them are shared,
        with everything that depends on these only; others are stacked over all requests.
      at_once: number of requests to compute together, with their activations in memory; None chooses by the device. If
        kernels of convolutions differ, requests run one by one: convolutions with stacked kernels are slow.
    """
    stacked = stack_changed(model.variables, [each.variables for each in unlearned])
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)
    at_once = at_once or (_ON_CPU if on_cpu() else _ON_ACCELERATOR)
    given = {"apply": model.apply, "requests": len(unlearned), "at_once": at_once}
    predictions = [
        np.asarray(_predictions(model.variables, stacked, (images, *moments), **given))
        for images, _ in index_batches(split, indices, batch_size)
    ]
    return np.concatenate(predictions, axis=1)[:, : len(indices)]


def stack_changed(variables: Any, unlearned: Sequence[Any]) -> dict[str, jax.Array]:
    """The leaves that differ from the original in any request, by path, as `(requests, ...)`."""
    leaves = [leaves_by_path(each) for each in unlearned]
    return {path: jnp.stack([each[path] for each in leaves]) for path in differing_paths(variables, unlearned)}


def map_requests(
    function: Callable[[Any, Any], Any],
    variables: Any,
    stacked: dict[str, jax.Array],
    inputs: Any,
    *,
    requests: int,
    at_once: int,
) -> Any:
    """`function(variables, inputs)` for each request, stacked; use it in a program, which computes shared values once.

    Args:
      stacked: as `stack_changed` returns it.
    """
    early, late = split_program(function, variables, inputs, stacked.keys())
    values = early(variables, inputs)

    def one(request: tuple[jax.Array, dict[str, jax.Array]]) -> Any:
        return late(edited(variables, request[1]), values)

    kernels_differ = any(leaf.ndim > 3 for leaf in stacked.values())
    at_once = 1 if kernels_differ else min(at_once, requests)
    # Their number is passed separately: there may be no leaf that differs.
    return jax.lax.map(one, (jnp.arange(requests), stacked), batch_size=at_once if at_once > 1 else None)


@partial(jax.jit, static_argnames=("apply", "requests", "at_once"))
def _predictions(
    variables: Any,
    stacked: dict[str, jax.Array],
    given: tuple[jax.Array, ...],
    *,
    apply: Callable[[Any, jax.Array], jax.Array],
    requests: int,
    at_once: int,
) -> jax.Array:
    """Int32 `(requests, batch)`; `given` are uint8 images, mean and std."""

    def predict(variables: Any, given: tuple[jax.Array, ...]) -> jax.Array:
        return everywhere(apply(variables, normalise(*given))).argmax(-1)

    return map_requests(predict, variables, stacked, given, requests=requests, at_once=at_once)
