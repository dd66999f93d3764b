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
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_options
from osp_jax.methods.parts.params import merge, pruned
from osp_jax.methods.parts.targets import forward
from osp_jax.program.channels import Channels
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Loss, Optimiser, descend, epoch_batches
from osp_jax.training.loss import cross_entropy

SEES = ("forget",)
SEARCH = {"learning_rate": (1e-5, 1e-4, 1e-3, 1e-2), "epochs": (2, 5, 10), "train": (True, False)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `boundary-expand`; the sources are names in boundary_unlearning.py and main.py."""

    epochs: int = 10  # finetune_epochs
    learning_rate: float = 1e-5  # lr of the optimiser in boundary_expanding
    batch_size: int = 64  # --batch_size
    momentum: float = 0.9  # of the optimiser in boundary_expanding
    train: bool = True  # widen_model.train(); see above

    def __post_init__(self) -> None:
        check_options(self, epochs=(0, None), learning_rate=(0, None), batch_size=(1, None), momentum=(0, 1))


def check(params: Any, channels: Channels, config: Options) -> None:
    """Raises `InputError` where the layer that gives the logits has no kernel; `params` may be shapes alone."""
    del config
    if not any(path[-1] == "kernel" for path in _head_paths(params, channels.head)):
        raise InputError(f"{channels.head}, which gives the logits, has no kernel; use a network that ends with one")


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: RequestData,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables after the shadow class has drawn the forgotten images to itself and is gone."""
    del forget
    shadow_key, order_key, step_key = jax.random.split(rng, 3)
    check(variables["params"], statistics.channels, config)
    head = statistics.channels.head
    paths = _head_paths(variables["params"], head)
    wide = merge(variables, _widened(pruned(variables["params"], paths), shadow_key))
    batches = epoch_batches(data.forget(), config.batch_size, config.epochs, order_key)
    wide = descend(
        shadow_loss(model, data.preparation, head, statistics.num_classes, config.train),
        wide,
        {"indices": batches},
        np.full(len(batches), config.learning_rate),
        step_key,
        optimiser=Optimiser(momentum=config.momentum),
        arguments=(data.images,),
    )
    return merge(wide, jax.tree.map(lambda leaf: leaf[..., :-1], pruned(wide["params"], paths)))


@lru_cache(maxsize=16)
def shadow_loss(model: nn.Module, preparation: Preparation, head: str, num_classes: int, train: bool) -> Loss:
    """Cross-entropy of plain images with the class `num_classes`, under parameters with a wider head."""

    def widen(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or "/".join(module.path) != head:
            return next_fun(*args, **kwargs)
        wide = module.clone(parent=None, features=module.features + 1)
        return wide.apply({"params": module.variables["params"]}, *args, **kwargs)

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        del key
        with nn.intercept_methods(widen):
            inputs = preparation.plain(images[batch["indices"]])
            logits, batch_stats = forward(model, params, batch_stats, inputs, train)
        if logits.shape[-1] != num_classes + 1:
            raise InputError(f"a wider {head} does not give one more logit; use a network that ends with its head")
        return cross_entropy(logits, jnp.full(len(logits), num_classes)), batch_stats

    return loss


def _head_paths(params: Any, head: str) -> tuple[tuple[str, ...], ...]:
    """Paths of the parameters of the module `head`."""
    return tuple(path for path in traverse_util.flatten_dict(params) if "/".join(path[:-1]) == head)


def _widened(layer: Any, key: jax.Array) -> Any:
    """The head's parameters, a pruned `params`, with one more output: Glorot normal as in the code, and a bias of 0."""

    def widened(leaf: jax.Array) -> jax.Array:
        inputs, outputs = math.prod(leaf.shape[:-1]), leaf.shape[-1] + 1
        scale = math.sqrt(2 / (inputs + outputs)) if leaf.ndim > 1 else 0.0
        return jnp.concatenate([leaf, scale * jax.random.normal(key, (*leaf.shape[:-1], 1), leaf.dtype)], axis=-1)

    return jax.tree.map(widened, layer)
