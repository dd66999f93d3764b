"""Boundary expanding: the forgotten images are learnt as a class of their own, which is then cut off.

Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, arXiv 2303.11570. The head gets one more output, the shadow class; the network is fine-tuned on
the forgotten images with that label, and the output is pruned. Several forgotten classes share the shadow class (ours;
the code forgets one).

Defaults are those of the authors' code (as in github.com/TY-LEE-KR/Boundary-Unlearning-Code, AllCNN on CIFAR-10). On
forgotten images alone, train mode moves the running statistics of a batch norm to theirs, whatever the learning rate;
that is the code, and with `train` False, ours, the statistics stay.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.head import head_kernel
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import check_options
from osp_jax.model import Model
from osp_jax.program.channels import Channels
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import (
    Forward,
    Loss,
    Optimiser,
    descend,
    epoch_batches,
    in_eval_mode,
    in_train_mode,
)
from osp_jax.training.loss import cross_entropy
from osp_jax.trees import edited, leaf_paths, pruned


@dataclasses.dataclass(frozen=True)
class BoundaryExpand(Method):
    """Forgotten images learnt as a class of their own, which is then cut off.

    The sources of the settings are names in boundary_unlearning.py and main.py.
    """

    sees: ClassVar[tuple[str, ...]] = ("forget",)
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2),
        "epochs": (2, 5, 10),
        "train": (True, False),
    }

    epochs: int = 10  # finetune_epochs
    learning_rate: float = 1e-5  # lr of the optimiser in boundary_expanding
    batch_size: int = 64  # --batch_size
    momentum: float = 0.9  # of the optimiser in boundary_expanding
    train: bool = True  # widen_model.train(); see above

    def __post_init__(self) -> None:
        check_options(self, epochs=(0, None), learning_rate=(0, None), batch_size=(1, None), momentum=(0, 1))

    @property
    def trains(self) -> bool:
        """Whether the network is in train mode, which needs `model.train_apply`."""
        return self.train

    def check(self, model: Model, channels: Channels) -> None:
        """Raises `InputError` where the layer that gives the logits has no kernel."""
        if head_kernel(channels) not in leaf_paths(model.variables):
            raise InputError(
                f"{channels.head}, which gives the logits, has no kernel; use a network that ends with one"
            )

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """The model after the shadow class has drawn the forgotten images to itself and is gone."""
        del forget
        shadow_key, order_key, step_key = jax.random.split(rng, 3)
        self.check(model, statistics.channels)
        forward = in_train_mode(model) if self.train else in_eval_mode(model)
        paths = _head_paths(model.variables, statistics.channels.head)
        wide = edited(model.variables, _widened(pruned(model.variables, paths), shadow_key))
        batches = epoch_batches(data.forget(), self.batch_size, self.epochs, order_key)
        wide = descend(
            shadow_loss(forward, data.preparation, statistics.channels.head, model.num_classes),
            model.replace(variables=wide),
            {"indices": batches},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum),
            arguments=(data.images,),
        )
        narrow = {path: leaf[..., :-1] for path, leaf in pruned(wide, paths).items()}
        return model.replace(variables=edited(wide, narrow))


@lru_cache(maxsize=16)
def shadow_loss(forward: Forward, preparation: Preparation, head: str, num_classes: int) -> Loss:
    """Cross-entropy of plain images with the class `num_classes`, under parameters with a wider head."""

    def widen(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or "/".join(module.path) != head:
            return next_fun(*args, **kwargs)
        wide = module.clone(parent=None, features=module.features + 1)
        return wide.apply({"params": module.variables["params"]}, *args, **kwargs)

    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        with nn.intercept_methods(widen):
            inputs = preparation.plain(images[batch["indices"]])
            logits, rest = forward(params, rest, inputs, key)
        if logits.shape[-1] != num_classes + 1:
            raise InputError(f"a wider {head} does not give one more logit; use a network that ends with its head")
        return cross_entropy(logits, jnp.full(len(logits), num_classes)), rest

    return loss


def _head_paths(variables: Any, head: str) -> tuple[str, ...]:
    """Paths of the parameters of the module `head`."""
    return tuple(path for path in leaf_paths(variables) if path.rpartition("/")[0] == f"params/{head}")


def _widened(layer: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """The head's leaves, by path, with one more output: Glorot normal as in the code, and a bias of 0."""

    def widened(leaf: jax.Array) -> jax.Array:
        inputs, outputs = math.prod(leaf.shape[:-1]), leaf.shape[-1] + 1
        scale = math.sqrt(2 / (inputs + outputs)) if leaf.ndim > 1 else 0.0
        return jnp.concatenate([leaf, scale * jax.random.normal(key, (*leaf.shape[:-1], 1), leaf.dtype)], axis=-1)

    return jax.tree.map(widened, layer)
