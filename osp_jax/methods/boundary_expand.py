"""Boundary expanding: learns forgotten images as an extra class, then removes that class.

Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, arXiv 2303.11570. The head gets an additional output, the shadow class; the network is fine-tuned
on the forgotten images with that label, and the output is pruned. Several forgotten classes share the shadow class
(ours; the code forgets one).

Defaults are those of the authors' code (as in github.com/TY-LEE-KR/Boundary-Unlearning-Code, AllCNN on CIFAR-10). In
train mode on forgotten images alone, the running statistics of batch norms move to those images at any learning rate,
as in the code; with `train` False (ours) they stay.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.head import head_changes, head_of
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.statistics import Statistics
from osp_jax.training.descent import (
    Forward,
    Loss,
    Optimiser,
    descend_from,
    epoch_batches,
    in_eval_mode,
    in_train_mode,
    split_variables,
)
from osp_jax.training.loss import cross_entropy
from osp_jax.trees import combine, edited


@dataclasses.dataclass(frozen=True)
class BoundaryExpand(Method):
    """Learns forgotten images as an extra class, then removes that class."""

    sees: ClassVar[tuple[str, ...]] = ("forget",)
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2),
        "epochs": (2, 5, 10),
        "train": (True, False),
    }

    epochs: int = option(
        10, "passes over the forgotten images", low=0, source="boundary_unlearning.py: finetune_epochs"
    )
    learning_rate: float = option(
        1e-5, "learning rate of SGD", low=0, source="boundary_unlearning.py: optimiser of boundary_expanding"
    )
    batch_size: int = option(64, "images in a batch", low=1, source="main.py: --batch_size")
    momentum: float = option(
        0.9, "momentum of SGD", low=0, high=1, source="boundary_unlearning.py: optimiser of boundary_expanding"
    )
    train: bool = option(
        True,
        "put the network in train mode, which moves the running statistics of batch norms to the forgotten images; "
        "False keeps them (ours)",
        source="boundary_unlearning.py: widen_model.train()",
    )

    @property
    def trains(self) -> bool:
        """Whether the network is in train mode, which needs `model.train_apply`."""
        return self.train

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after fine-tuning, without the shadow class."""
        del forget
        shadow_key, order_key, step_key = jax.random.split(rng, 3)
        forward = in_train_mode(model) if self.train else in_eval_mode(model)
        batches = epoch_batches(data.forget(), self.batch_size, self.epochs, order_key)
        params, rest = split_variables(model)
        shadow = shadow_output(model.variables, statistics.gates, shadow_key)
        (params, _), rest = descend_from(
            shadow_loss(forward, data.preparation, statistics.gates, model.num_classes),
            (params, shadow),
            rest,
            {"indices": batches},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum),
            arguments=(data.images,),
        )
        return model.replace(variables=combine(params, rest))


def shadow_output(variables: Any, gates: Gates, key: jax.Array) -> dict[str, jax.Array]:
    """The shadow output of the head: a Glorot normal 'kernel' `(features,)` as in the code, and, if the head has a
    bias, a 'bias' of 0."""
    kernel, bias = head_of(variables, gates.head)
    scale = math.sqrt(2 / (kernel.shape[0] + kernel.shape[1] + 1))
    output = {"kernel": scale * jax.random.normal(key, kernel.shape[:1], kernel.dtype)}
    return output if gates.head.bias is None else {**output, "bias": jnp.zeros((), bias.dtype)}


@lru_cache(maxsize=16)
def shadow_loss(forward: Forward, preparation: Preparation, gates: Gates, num_classes: int) -> Loss:
    """Cross-entropy of plain images with the class `num_classes`, of `((params, shadow output), rest, ...)`."""

    def loss(both: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        params, shadow = both
        inputs = preparation.plain(images[batch["indices"]])
        logits, new_rest = forward(params, rest, inputs, key)
        # Replacing the first output by the shadow output gives its logit from the same program.
        kernel, bias = head_of(params, gates.head)
        bias = bias.at[0].set(shadow.get("bias", 0.0))
        swapped = edited(params, head_changes(params, gates.head, kernel.at[:, 0].set(shadow["kernel"]), bias))
        added, _ = forward(swapped, rest, inputs, key)
        logits = jnp.concatenate([logits, added[:, :1]], axis=-1)
        return cross_entropy(logits, jnp.full(len(logits), num_classes)), new_rest

    return loss
