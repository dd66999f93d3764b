"""NegGrad+: descends the loss of retained images and ascends that of forgotten images in the same step.

The strong baseline of Kurmanji et al. ("Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv 2302.09880). Each
step descends, on one batch of each side,

    alpha * (CE(retain) + pull / 2 * |w - w0|^2) - (1 - alpha) * CE(forget)

with w0 the parameters of the original. We did not have access to the full paper; formula and values are from the
authors' code (github.com/meghdadk/SCRUB). It has two versions. `small_scale_unlearning.ipynb`, which forgets whole
classes, pulls towards the original and normalises by running statistics, which do not change. `train_negrad`, which the
notebooks of larger networks use for some images of a class, has no pull and uses train mode (`pull=0`,
`train_mode=true`). The defaults are those of the first. Images are augmented as in training; neither version does so.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import (
    Forward,
    Loss,
    Optimiser,
    cycled_batches,
    descend,
    epoch_batches,
    in_eval_mode,
    in_train_mode,
    split_variables,
)


@dataclasses.dataclass(frozen=True)
class NegGradPlus(Method):
    """Descends on retained images and ascends on forgotten ones; `epochs` are passes over the retained images."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "alpha": (0.9, 0.95, 0.99, 0.999),
        "learning_rate": (0.003, 0.01, 0.03),
        "train_mode": (False, True),
    }

    alpha: float = option(
        0.95,
        "weight of the retained images' loss; 1 - alpha is that of the forgotten images",
        low=0,
        high=1,
        source="SCRUB, small_scale_unlearning.ipynb: ng_alpha; 0.9999 in the notebooks for some images of a class",
    )
    epochs: int = option(
        10, "passes over the retained images", low=0, source="SCRUB, small_scale_unlearning.ipynb: ng_epochs"
    )
    learning_rate: float = option(
        0.01, "learning rate of SGD, constant", low=0, source="SCRUB, small_scale_unlearning.ipynb: ng_lr"
    )
    batch_size: int = option(
        128, "retained images in a batch", low=1, source="SCRUB, small_scale_unlearning.ipynb: --batch-size"
    )
    forget_batch_size: int = option(
        64, "forgotten images in a batch", low=1, source="SCRUB, small_scale_unlearning.ipynb: forget_bs"
    )
    momentum: float = option(0.0, "momentum of SGD", low=0, high=1, source="SCRUB: plain SGD")
    pull: float = option(
        5e-4,
        "weight of the squared distance to the original's parameters",
        low=0,
        source="SCRUB, large_scale_unlearning.ipynb (CIFAR-10): --weight-decay, the weight of its l2_penalty",
    )
    train_mode: bool = option(
        False, "normalise by the statistics of each batch; False: by the running statistics, which do not change"
    )

    @property
    def trains(self) -> bool:
        """Whether the network is in train mode, which needs `model.train_apply`."""
        return self.train_mode

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after `epochs` passes over the retained images; images to forget repeat as needed."""
        del forget, statistics
        retain_key, forget_key, step_key = jax.random.split(rng, 3)
        retain = epoch_batches(data.retain(), self.batch_size, self.epochs, retain_key)
        forward = in_train_mode(model) if self.train_mode else in_eval_mode(model)
        weights = jnp.float32(self.alpha), jnp.float32(self.pull)
        variables = descend(
            two_sided_loss(forward, data.preparation),
            model,
            {
                "retain": retain,
                "forget": cycled_batches(data.forget(), self.forget_batch_size, len(retain), forget_key),
            },
            np.full(len(retain), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum),
            arguments=(data.images, data.labels, split_variables(model)[0], *weights),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def two_sided_loss(forward: Forward, preparation: Preparation) -> Loss:
    """The loss above of a batch with indices `retain` and `forget`; arguments: images, labels, w0, alpha, pull."""
    cost = retain_loss(forward, preparation)

    def loss(
        params: Any,
        rest: Any,
        batch: Any,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        original: Any,
        alpha: jax.Array,
        pull: jax.Array,
    ) -> tuple[jax.Array, Any]:
        retain_key, forget_key = jax.random.split(key)
        given = images, labels
        retain, rest = cost(params, rest, {"indices": batch["retain"]}, retain_key, *given)
        forget, rest = cost(params, rest, {"indices": batch["forget"]}, forget_key, *given)
        moved = jax.tree.map(lambda new, old: jnp.sum((new - old) ** 2), params, original)
        distance = sum(jax.tree.leaves(moved))
        return alpha * (retain + pull / 2 * distance) - (1 - alpha) * forget, rest

    return loss
