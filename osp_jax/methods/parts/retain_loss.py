"""The loss of training on images with their own labels, shared by methods that fine-tune."""

from functools import lru_cache
from typing import Any

import jax

from osp_jax.data.augment import Preparation
from osp_jax.training.descent import Forward, Loss
from osp_jax.training.loss import cross_entropy


@lru_cache(maxsize=16)
def retain_loss(forward: Forward, preparation: Preparation) -> Loss:
    """Cross-entropy of a batch of augmented images with their own labels; `forward` is usually in train mode."""

    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        inputs = preparation.augmented(images[batch["indices"]], key)
        logits, rest = forward(params, rest, inputs, key)
        return cross_entropy(logits, labels[batch["indices"]]), rest

    return loss
