"""Cross-entropy with label smoothing, plus the weighted orthogonality penalty."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Mean over the batch; logits `(batch, classes)`, integer labels `(batch,)`."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def train_logits(model: nn.Module, params: Any, batch_stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    """(logits, new batch_stats) of normalised images `(batch, h, w, c)` in train mode."""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = model.apply(variables, images, True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})


def training_loss(
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    labels: jax.Array,
    penalty_weight: jax.Array,
    *,
    model: nn.Module,
    penalty: Callable[[Any], jax.Array],
    label_smoothing: float,
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """The loss of one batch of normalised images, in train mode.

    Returns:
      loss, (new batch_stats, metrics); the metrics are `loss`, `accuracy` and `penalty`, scalars.
    """
    logits, batch_stats = train_logits(model, params, batch_stats, images)
    orthogonality = penalty(params)
    loss = cross_entropy(logits, labels, label_smoothing) + penalty_weight * orthogonality
    accuracy = jnp.mean(logits.argmax(-1) == labels)
    metrics = {"loss": loss, "accuracy": accuracy, "penalty": orthogonality}
    return loss, (batch_stats, metrics)
