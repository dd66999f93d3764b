"""Training steps with gradients from PyTorch, in bfloat16 or float32: on CPUs two to three times faster than XLA.

Initial parameters, batches, augmentation, penalty and optimiser are the same, and stay in JAX. PyTorch computes the
cross-entropy, its gradient and the batch-norm statistics. With bfloat16, its convolutions take bfloat16 inputs and
accumulate in float32, as in `torch.autocast`; parameters and norms stay float32.

The networks, ResNets and CifarNet, are written here again as functions of the variables of their Flax modules.
`tests/training/test_torch_gradient.py` checks that both have the same loss, gradient and statistics.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from osp_jax.data.augment import Preparation
from osp_jax.networks.cifarnet import CifarNet
from osp_jax.networks.resnet import STEMS, BasicBlock, ResNet
from osp_jax.runtime.errors import InputError
from osp_jax.training.state import TrainState
from osp_jax.training.step import Step

GRADIENTS = ("jax", "torch", "torch-bfloat16")  # the library that computes them; PyTorch's are float32 or bfloat16

_MOMENTUM, _EPSILON = 0.9, 1e-5  # those of the batch norms of `networks`


def make_torch_step(
    module: nn.Module,
    optimiser: optax.GradientTransformation,
    *,
    preparation: Preparation,
    penalty: Callable[[Any], jax.Array],
    label_smoothing: float,
    bfloat16: bool,
) -> Step:
    """A step `(state, (images, labels), key, penalty_weight) -> (state, metrics)`, as `step.make_batch_step` makes it.

    JAX cannot trace it: `training.epoch` calls it directly.

    Raises:
      InputError: PyTorch is not installed, or the network is not one of those above.
    """
    torch, network = _torch(), _network(module)
    gradient = partial(_gradient, torch, network, label_smoothing=label_smoothing, bfloat16=bfloat16)

    @jax.jit
    def augmented(images: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        return preparation.augmented(images, jax.random.fold_in(key, step))

    @partial(jax.jit, donate_argnums=0)
    def updated(state: TrainState, gradients: Any, seen: Any, weight: jax.Array) -> tuple[TrainState, jax.Array]:
        orthogonality, more = jax.value_and_grad(penalty)(state.params)
        gradients = jax.tree.map(lambda a, b: a + weight * b, gradients, more)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        batch_stats = jax.tree.map(lambda old, new: _MOMENTUM * old + (1 - _MOMENTUM) * new, state.batch_stats, seen)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), orthogonality

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array], key: jax.Array, penalty_weight: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        images, labels = batch
        loss, accuracy, gradients, seen = gradient(state.params, augmented(images, key, state.step), labels)
        state, orthogonality = updated(state, gradients, seen, penalty_weight)
        metrics = {"loss": loss + penalty_weight * orthogonality, "accuracy": accuracy, "penalty": orthogonality}
        return state, metrics

    step.untraceable = True
    return step


def _gradient(
    torch: Any,
    network: Callable[["_Layers", Any], Any],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float,
    bfloat16: bool,
) -> tuple[jax.Array, jax.Array, Any, Any]:
    """(cross-entropy, accuracy, its gradient for `params`, mean and variance of each norm's batch).

    `images` are normalised float32 `(batch, h, w, c)`, `labels` `(batch,)`.
    """
    leaves = {path: torch.from_numpy(np.array(leaf)).requires_grad_() for path, leaf in flatten_dict(params).items()}
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)  # NHWC memory, called channels last in PyTorch
    target = torch.from_numpy(np.array(labels)).long()
    seen: dict[tuple[str, ...], Any] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = network(_Layers(torch, leaves, seen), x)
    loss = torch.nn.functional.cross_entropy(logits, target, label_smoothing=label_smoothing)
    loss.backward()
    accuracy = (logits.argmax(-1) == target).float().mean()
    as_jax = partial(jax.tree.map, lambda tensor: jnp.asarray(tensor.detach().numpy()))
    gradients = {path: leaf.grad for path, leaf in leaves.items()}
    return *as_jax((loss, accuracy)), unflatten_dict(as_jax(gradients)), unflatten_dict(as_jax(seen))


class _Layers:
    """Convolution, batch norm and head by the names of a Flax module, on tensors `(batch, channels, h, w)`."""

    def __init__(self, torch: Any, leaves: dict[tuple[str, ...], Any], seen: dict[tuple[str, ...], Any]):
        self.torch, self.leaves, self.seen = torch, leaves, seen

    def conv(self, x: Any, *path: str, strides: int = 1) -> Any:
        kernel = self.leaves[*path, "kernel"].permute(3, 2, 0, 1)  # h w in out -> out in h w
        return self.torch.nn.functional.conv2d(x, kernel, stride=strides, padding=kernel.shape[-1] // 2)

    def norm(self, x: Any, *path: str) -> Any:
        scale, bias = self.leaves[*path, "scale"], self.leaves[*path, "bias"]
        mean, variance = self.torch.zeros_like(scale), self.torch.zeros_like(scale)
        # With a momentum of 1 these become the moments of the batch; the variance with n - 1, Flax's with n.
        y = self.torch.nn.functional.batch_norm(x, mean, variance, scale, bias, True, 1.0, _EPSILON)
        count = x.numel() // x.shape[1]
        self.seen[*path, "mean"], self.seen[*path, "var"] = mean.detach(), variance.detach() * ((count - 1) / count)
        return y

    def norm_and_relu(self, x: Any, *path: str) -> Any:
        return self.torch.nn.functional.relu(self.norm(x, *path))

    def max_pool(self, x: Any, side: int, strides: int, padding: int = 0) -> Any:
        return self.torch.nn.functional.max_pool2d(x, side, strides, padding)

    def head(self, x: Any) -> Any:
        with self.torch.autocast("cpu", enabled=False):
            features = x.float().mean((2, 3))
            return features @ self.leaves["head", "kernel"] + self.leaves["head", "bias"]


def _network(module: nn.Module) -> Callable[[_Layers, Any], Any]:
    if isinstance(module, ResNet):
        return partial(_resnet, module)
    if isinstance(module, CifarNet):
        return _cifarnet
    raise InputError(
        f"training.gradient: PyTorch's gradient supports ResNets and CifarNet, not {type(module).__name__}; "
        "leave the setting out ('jax')"
    )


def _resnet(module: ResNet, layers: _Layers, x: Any) -> Any:
    x = layers.norm_and_relu(layers.conv(x, "stem_conv", strides=STEMS[module.stem][1]), "stem_bn")
    if module.stem == "imagenet":
        x = layers.max_pool(x, 3, 2, 1)
    for stage, blocks in enumerate(module.stage_sizes, start=1):
        for number in range(1, blocks + 1):
            block = f"stage{stage}_block{number}"
            strides = 2 if stage > 1 and number == 1 else 1
            last = "2" if module.block is BasicBlock else "3"
            if last == "2":
                y = layers.norm_and_relu(layers.conv(x, block, "conv1", strides=strides), block, "bn1")
            else:
                y = layers.norm_and_relu(layers.conv(x, block, "conv1"), block, "bn1")
                y = layers.norm_and_relu(layers.conv(y, block, "conv2", strides=strides), block, "bn2")
            y = layers.norm(layers.conv(y, block, f"conv{last}"), block, f"bn{last}")
            if y.shape != x.shape:
                x = layers.norm(layers.conv(x, block, "conv_shortcut", strides=strides), block, "bn_shortcut")
            x = layers.torch.nn.functional.relu(x + y)
    return layers.head(x)


def _cifarnet(layers: _Layers, x: Any) -> Any:
    x = layers.norm_and_relu(layers.conv(x, "stem_conv"), "stem_bn")
    for stage in (1, 2, 3):
        x = layers.max_pool(layers.conv(x, f"stage{stage}_1_conv"), 2, 2)
        x = layers.norm_and_relu(x, f"stage{stage}_1_bn")
        x = layers.norm_and_relu(layers.conv(x, f"stage{stage}_2_conv"), f"stage{stage}_2_bn")
    return layers.head(x)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "training.gradient needs PyTorch; run: pip install 'osp_jax[torch]', or leave the setting out ('jax')"
        ) from error
    return torch
