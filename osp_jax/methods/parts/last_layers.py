"""Training the last k layers of any network on retained images, the rest frozen: what EU-k and CF-k share.

Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv 2201.06640. As in their code
(github.com/shash42/Evaluating-Inexact-Unlearning), a layer is a convolution or dense layer, here any module with a
kernel, counted from the end of the forward pass; what else has parameters behind the first of them, such as norms, is
trained with them. Their rate falls along a cosine in cycles of 1, 2, 4, ... epochs, so that 2**n - 1 epochs end low.

Ours: frozen batch norms use their running statistics, which stay (theirs follow the retained images); no clipping of
gradients (theirs at a norm of 10).
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_options
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import Loss, Optimiser, descend, epoch_batches
from osp_jax.training.loss import cross_entropy, train_logits

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LastLayersOptions:
    """Options of `euk` and `cfk`."""

    k: int = 1  # Goel et al., unlearn.py: minL; they try 1 to 50 of up to 110 layers
    epochs: int = 62  # Goel et al., unlearn.py: --epochs-rf
    learning_rate: float = 0.1  # Goel et al., learn.py: --maxlr
    floor: float = 0.05  # the lowest rate by the highest; Goel et al., learn.py: --minlr 0.005
    batch_size: int = 64  # Goel et al., learn.py: --batch-size
    momentum: float = 0.9  # Goel et al., learn.py: --momentum
    weight_decay: float = 5e-5  # Goel et al., learn.py: --weight-decay; ours is on kernels only

    def __post_init__(self) -> None:
        ranges = {"epochs": (0, None), "learning_rate": (0, None), "batch_size": (1, None), "momentum": (0, 1)}
        check_options(self, **ranges, k=(1, None), floor=(0, 1), weight_decay=(0, None))


def train_last_layers(
    model: nn.Module,
    variables: dict[str, Any],
    start: dict[str, Any],
    *,
    data: RequestData,
    config: LastLayersOptions,
    rng: jax.Array,
) -> dict[str, Any]:
    """`variables` with the last `config.k` layers trained on retained images from where they are in `start`."""
    check_depth(variables["params"], None, config)
    order_key, step_key = jax.random.split(rng)
    trained = last_modules(model, data.images.shape[1:], config.k)
    batches = epoch_batches(data.retain(), config.batch_size, config.epochs, order_key)
    rates = restart_rates(config.learning_rate, config.floor, config.epochs)
    last = descend(
        last_layers_loss(model, data.preparation, trained),
        {name: select(start[name], trained) for name in start},
        {"indices": batches},
        np.repeat(rates, len(batches) // max(config.epochs, 1)),
        step_key,
        optimiser=Optimiser(momentum=config.momentum, weight_decay=config.weight_decay),
        arguments=(variables, data.images, data.labels),
    )
    return {name: overlay(variables[name], last[name]) for name in variables}


def check_depth(params: Any, channels: Any, config: LastLayersOptions) -> None:
    """Raises `InputError` for a network of fewer than `config.k` layers."""
    del channels
    layers = {path[:-1] for path, leaf in traverse_util.flatten_dict(params).items() if leaf.ndim > 1}
    if config.k > len(layers):
        raise InputError(f"option k is {config.k} and the network has {len(layers)} layers; give at most as many")


@lru_cache(maxsize=32)
def last_layers_loss(model: nn.Module, preparation: Preparation, trained: frozenset[Path]) -> Loss:
    """Cross-entropy of a batch of augmented images, as a function of the modules `trained` alone.

    They are in train mode; the rest is in the first of the arguments: variables, images, labels.
    """

    def loss(
        params: Any, batch_stats: Any, batch: Any, key: jax.Array, frozen: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        inputs = preparation.augmented(images[batch["indices"]], key)
        whole = overlay(frozen["params"], params), overlay(frozen["batch_stats"], batch_stats)
        with nn.intercept_methods(partial(_keep_running_statistics, trained)):
            logits, batch_stats = train_logits(model, *whole, inputs)
        return cross_entropy(logits, labels[batch["indices"]]), select(batch_stats, trained)

    return loss


def _keep_running_statistics(trained: frozenset[Path], next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    trains = isinstance(module, nn.BatchNorm) and context.method_name == "__call__" and not module.use_running_average
    if not trains or module.path in trained:
        return next_fun(*args, **kwargs)
    # A copy, for the mode may stand in the module or in the call, but not in both.
    frozen = module.clone(parent=None, use_running_average=True)
    return frozen.apply(module.variables, args[0])


def last_modules(model: nn.Module, image_shape: tuple[int, int, int], k: int) -> frozenset[Path]:
    """Paths of the last `k` modules with a kernel, and of all others with variables from the first of them on."""
    modules = modules_in_order(model, image_shape)
    layers = [i for i, (_, has_kernel) in enumerate(modules) if has_kernel]
    return frozenset(path for path, _ in modules[layers[-k] :])


@lru_cache(maxsize=32)
def modules_in_order(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[tuple[Path, bool], ...]:
    """(path, whether it has a kernel) of each module with variables of its own, in the order of the forward pass.

    A module that is called more than once stands where it is called last.
    """
    order: dict[Path, bool | None] = {}

    def note(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "setup":
            return next_fun(*args, **kwargs)
        order.pop(module.path, None)
        order[module.path] = None  # its place; what it has is known after the call
        result = next_fun(*args, **kwargs)
        trees = (module.variables.get(name, {}) for name in ("params", "batch_stats"))
        own = [leaf for tree in trees for leaf in tree.values() if not isinstance(leaf, Mapping)]
        order[module.path] = any(leaf.ndim > 1 for leaf in own) if own else None
        return result

    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *image_shape)))
    return tuple((path, has_kernel) for path, has_kernel in order.items() if has_kernel is not None)


def select(tree: dict[str, Any], modules: frozenset[Path]) -> dict[str, Any]:
    """`tree` with nothing but the leaves of `modules`."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path[:-1] in modules})


def overlay(tree: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the leaves of `changed` in place of its own."""
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True)
    return traverse_util.unflatten_dict({**flat, **traverse_util.flatten_dict(changed)})


def restart_rates(peak: float, floor: float, epochs: int) -> np.ndarray:
    """The rate of each epoch, float64 `(epochs,)`: half a cosine from `peak` towards `floor * peak`, in cycles of 1, 2,
    4, ... epochs (SGDR, Loshchilov and Hutter, 2017, arXiv 1608.03983, equation 5)."""
    epoch = np.arange(1, epochs + 1)
    cycle = 2 ** np.floor(np.log2(epoch))
    return peak * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * (epoch / cycle - 1))))
