"""Cross-entropy with label smoothing, plus the weighted penalties on kernels and on features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util

from osp_jax.networks.cpu.depthwise import fast_depthwise

FeaturePenalty = Callable[[jax.Array, jax.Array, int], jax.Array]  # (features, labels, classes) -> scalar


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Mean over the batch; logits `(batch, classes)`, integer labels `(batch,)`."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def train_features(
    model: nn.Module, params: Any, batch_stats: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array | None, Any]:
    """(logits, features, new batch_stats) of normalised images `(batch, h, w, c)` in train mode.

    The features are the spatial means of the last activations, `(batch, channels)`, or None if the network does not sow
    them.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = _train_mode(model, variables, images)
    features = None
    for last in list(traverse_util.flatten_dict(updated.get("activations", {})).values())[-1:]:
        features = last.reshape(len(last), -1, last.shape[-1]).mean(1).astype(jnp.float32)  # b (h w) c -> b c
    return logits, features, updated.get("batch_stats", {})


@fast_depthwise
def _train_mode(model: nn.Module, variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    return model.apply(variables, images, True, mutable=["batch_stats", "activations"])


def training_loss(
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    labels: jax.Array,
    penalty_weight: jax.Array,
    *,
    model: nn.Module,
    penalty: Callable[[Any], jax.Array],
    feature_penalty: FeaturePenalty | None = None,
    label_smoothing: float,
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """The loss of one batch of normalised images, in train mode.

    Returns:
      loss, (new batch_stats, metrics); the metrics, scalars, are `loss`, `accuracy`, `penalty` (unweighted) and, if
      there is one, `feature_penalty` (weighted).
    """
    logits, features, batch_stats = train_features(model, params, batch_stats, images)
    orthogonality = penalty(params)
    loss = cross_entropy(logits, labels, label_smoothing) + penalty_weight * orthogonality
    accuracy = jnp.mean(logits.argmax(-1) == labels)
    metrics = {"loss": loss, "accuracy": accuracy, "penalty": orthogonality}
    if feature_penalty:
        metrics["feature_penalty"] = feature_penalty(features, labels, logits.shape[-1])
        metrics["loss"] = loss = loss + metrics["feature_penalty"]
    return loss, (batch_stats, metrics)
