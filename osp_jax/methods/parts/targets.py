"""Losses against targets that are not an image's own label: labels that the batch brings, or a teacher's outputs."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.training.descent import Loss
from osp_jax.training.loss import cross_entropy, train_logits


def forward(model: nn.Module, params: Any, batch_stats: Any, inputs: jax.Array, train: bool) -> tuple[jax.Array, Any]:
    """(logits, batch_stats) of normalised images `(batch, h, w, c)`; the statistics are new ones in train mode."""
    if train:
        return train_logits(model, params, batch_stats, inputs)
    return model.apply({"params": params, "batch_stats": batch_stats}, inputs, False), batch_stats


@lru_cache(maxsize=16)
def label_loss(model: nn.Module, preparation: Preparation, train: bool = True) -> Loss:
    """Cross-entropy of the plain images at `batch['indices']` with the labels `batch['labels']`."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        del key
        inputs = preparation.plain(images[batch["indices"]])
        logits, batch_stats = forward(model, params, batch_stats, inputs, train)
        return cross_entropy(logits, batch["labels"]), batch_stats

    return loss


def divergence(teacher: jax.Array, student: jax.Array, temperature: jax.Array) -> jax.Array:
    """KL(teacher || student) of each image, both distributions at a temperature: float32 `(batch,)`.

    Args:
      teacher, student: logits `(batch, classes)`.
    """
    log_teacher, log_student = jax.nn.log_softmax(teacher / temperature), jax.nn.log_softmax(student / temperature)
    return (jnp.exp(log_teacher) * (log_teacher - log_student)).sum(-1)
