"""Losses against targets other than an image's own label: labels in the batch, or a teacher's outputs."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from osp_jax.data.augment import Preparation
from osp_jax.training.descent import Forward, Loss
from osp_jax.training.loss import cross_entropy


@lru_cache(maxsize=16)
def label_loss(forward: Forward, preparation: Preparation) -> Loss:
    """Cross-entropy of the plain images at `batch['indices']` with the labels `batch['labels']`."""

    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        inputs = preparation.plain(images[batch["indices"]])
        logits, rest = forward(params, rest, inputs, key)
        return cross_entropy(logits, batch["labels"]), rest

    return loss


def divergence(teacher: jax.Array, student: jax.Array, temperature: jax.Array) -> jax.Array:
    """KL(teacher || student) of each image, both distributions at a temperature: float32 `(batch,)`.

    Args:
      teacher, student: logits `(batch, classes)`.
    """
    log_teacher, log_student = jax.nn.log_softmax(teacher / temperature), jax.nn.log_softmax(student / temperature)
    return (jnp.exp(log_teacher) * (log_teacher - log_student)).sum(-1)
