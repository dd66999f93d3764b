"""The loss of further training on retained images, as methods that fine-tune share it."""

from functools import lru_cache
from typing import Any

import jax
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.training.descent import Loss
from osp_jax.training.loss import cross_entropy, train_logits


@lru_cache(maxsize=16)
def retain_loss(model: nn.Module, preparation: Preparation) -> Loss:
    """Cross-entropy of a batch of augmented images with their own labels, in train mode."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        inputs = preparation.augmented(images[batch["indices"]], key)
        logits, batch_stats = train_logits(model, params, batch_stats, inputs)
        return cross_entropy(logits, labels[batch["indices"]]), batch_stats

    return loss
