"""Small networks as people write them in Flax Linen, Flax NNX and in Equinox's manner, with random weights.

`ZOO[name]()` gives `(apply, variables)`: a pure function `(variables, normalised NHWC images) -> logits` in eval mode.
The modules behind it are `LINEN[name]`, with how they want to be called in eval mode, and `NNX[name]`. Biases, norm
scales and batch statistics are random too: a gain at a wrong place changes the logits.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import lax

CLASSES = 5
Shape = tuple[int, int, int]

# Linen. The arguments that switch between training and evaluation differ on purpose.


class TutorialCNN(nn.Module):
    """The CNN of Flax's first tutorial."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(features=6, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.Conv(features=8, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=12)(x)
        x = nn.relu(x)
        return nn.Dense(features=CLASSES)(x)


class ResNetBlock(nn.Module):
    filters: int
    strides: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        y = self.conv(self.filters, (3, 3), (self.strides, self.strides))(x)
        y = nn.relu(self.norm()(y))
        y = self.norm()(self.conv(self.filters, (3, 3))(y))
        if x.shape != y.shape:
            x = self.conv(self.filters, (1, 1), (self.strides, self.strides), name="conv_proj")(x)
            x = self.norm(name="norm_proj")(x)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """As in Flax's ImageNet example, two blocks a stage."""

    widths: tuple[int, ...] = (4, 6, 8, 10)

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm(name="bn_init")(conv(self.widths[0], (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, width in enumerate(self.widths):
            for block in range(2):
                x = ResNetBlock(width, 2 if stage > 0 and block == 0 else 1, conv, norm)(x)
        return nn.Dense(CLASSES)(jnp.mean(x, axis=(1, 2)))


class PreActBlock(nn.Module):
    filters: int
    strides: int
    norm: Callable

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.norm()(x))
        if x.shape[-1] != self.filters:
            x = nn.Conv(self.filters, (1, 1), self.strides, use_bias=False)(y)
        y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(y)
        y = nn.relu(self.norm()(y))
        return x + nn.Conv(self.filters, (3, 3), use_bias=False)(y)


class PreActResNet(nn.Module):
    """He et al., 2016, arXiv 1603.05027."""

    @nn.compact
    def __call__(self, x, *, training: bool):
        norm = partial(nn.BatchNorm, use_running_average=not training)
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        for filters, strides in ((4, 1), (4, 1), (8, 2), (8, 1), (12, 2)):
            x = PreActBlock(filters, strides, norm)(x)
        return nn.Dense(CLASSES)(nn.relu(norm()(x)).mean((1, 2)))


class DenseNet(nn.Module):
    """Huang et al., 2017, arXiv 1608.06993: each layer reads the outputs of all before it."""

    growth: int = 4

    @nn.compact
    def __call__(self, x, use_running_average: bool = False):
        norm = partial(nn.BatchNorm, use_running_average=use_running_average)
        x = nn.Conv(2 * self.growth, (3, 3), use_bias=False)(x)
        for block in range(2):
            for _ in range(3):
                y = nn.Conv(2 * self.growth, (1, 1), use_bias=False)(nn.relu(norm()(x)))
                y = nn.Conv(self.growth, (3, 3), use_bias=False)(nn.relu(norm()(y)))
                x = jnp.concatenate([x, y], axis=-1)
            if block == 0:
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(norm()(x)).mean(axis=(1, 2))
        return nn.Dense(CLASSES)(x)


class Inception(nn.Module):
    widths: tuple[int, int, int, int]
    norm: Callable

    @nn.compact
    def __call__(self, x):
        def conv(y, filters, side):
            return nn.relu(self.norm()(nn.Conv(filters, (side, side), use_bias=False)(y)))

        one, three, five, pool = self.widths
        return jnp.concatenate(
            [
                conv(x, one, 1),
                conv(conv(x, three - 1, 1), three, 3),
                conv(conv(conv(x, five - 1, 1), five, 3), five, 3),
                conv(nn.max_pool(x, (3, 3), (1, 1), "SAME"), pool, 1),
            ],
            axis=-1,
        )


class GoogLeNet(nn.Module):
    """Szegedy et al., 2015, arXiv 1409.4842, with batch norm; it trains unless told otherwise."""

    @nn.compact
    def __call__(self, x, train=True):
        norm = partial(nn.BatchNorm, use_running_average=not train, epsilon=1e-3)
        x = nn.relu(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = Inception((3, 4, 3, 2), norm)(x)
        x = Inception((4, 5, 3, 3), norm)(x)
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = Inception((5, 6, 4, 3), norm)(x)
        x = nn.Dropout(0.4, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(CLASSES)(x)


class InvertedResidual(nn.Module):
    filters: int
    strides: int
    expansion: int
    norm: Callable

    @nn.compact
    def __call__(self, x):
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = nn.relu6(self.norm()(nn.Conv(hidden, (1, 1), use_bias=False)(y)))
        y = nn.Conv(hidden, (3, 3), self.strides, feature_group_count=hidden, use_bias=False)(y)
        y = nn.relu6(self.norm()(y))
        y = self.norm()(nn.Conv(self.filters, (1, 1), use_bias=False)(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Sandler et al., 2018, arXiv 1801.04381."""

    @nn.compact
    def __call__(self, x, train: bool):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu6(norm()(nn.Conv(6, (3, 3), 2, use_bias=False)(x)))
        for filters, strides, expansion in ((4, 1, 1), (6, 2, 3), (6, 1, 3), (8, 2, 2)):
            x = InvertedResidual(filters, strides, expansion, norm)(x)
        x = nn.relu6(norm()(nn.Conv(14, (1, 1), use_bias=False)(x)))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class SqueezeExcite(nn.Module):
    squeezed: int
    inner: Callable
    outer: Callable

    @nn.compact
    def __call__(self, x):
        y = x.mean((1, 2), keepdims=True)
        y = self.inner(nn.Conv(self.squeezed, (1, 1))(y))
        return x * self.outer(nn.Conv(x.shape[-1], (1, 1))(y))


class MobileNetV3(nn.Module):
    """Howard et al., 2019, arXiv 1905.02244: hard-swish, squeeze-and-excite, and a hidden layer in the classifier."""

    @nn.compact
    def __call__(self, x, training: bool = False):
        norm = partial(nn.BatchNorm, use_running_average=not training, epsilon=1e-3)
        x = nn.hard_swish(norm()(nn.Conv(5, (3, 3), 2, use_bias=False)(x)))
        for kernel, hidden, filters, excite, act, strides in (
            (3, 6, 5, True, nn.relu, 1),
            (3, 10, 6, False, nn.relu, 2),
            (5, 12, 6, True, nn.hard_swish, 1),
        ):
            y = act(norm()(nn.Conv(hidden, (1, 1), use_bias=False)(x)))
            y = nn.Conv(hidden, (kernel, kernel), strides, feature_group_count=hidden, use_bias=False)(y)
            y = act(norm()(y))
            if excite:
                y = SqueezeExcite(4, nn.relu, nn.hard_sigmoid)(y)
            y = norm()(nn.Conv(filters, (1, 1), use_bias=False)(y))
            x = x + y if x.shape == y.shape else y
        x = nn.hard_swish(norm()(nn.Conv(12, (1, 1), use_bias=False)(x)))
        x = nn.hard_swish(nn.Dense(14)(x.mean((1, 2))))
        x = nn.Dropout(0.2, deterministic=not training)(x)
        return nn.Dense(CLASSES)(x)


class EfficientNet(nn.Module):
    """Tan and Le, 2019, arXiv 1905.11946: SiLU, squeeze-and-excite, and stochastic depth."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic: bool | None = None):
        still = nn.merge_param("deterministic", self.deterministic, deterministic)
        norm = partial(nn.BatchNorm, use_running_average=still, epsilon=1e-3)
        x = nn.silu(norm()(nn.Conv(6, (3, 3), 2, use_bias=False)(x)))
        for i, (filters, strides, expansion) in enumerate(((4, 1, 1), (6, 2, 3), (6, 1, 3))):
            hidden = x.shape[-1] * expansion
            y = nn.silu(norm()(nn.Conv(hidden, (1, 1), use_bias=False)(x))) if expansion > 1 else x
            y = nn.Conv(hidden, (3, 3), strides, feature_group_count=hidden, use_bias=False)(y)
            y = SqueezeExcite(max(1, x.shape[-1] // 4), nn.silu, nn.sigmoid)(nn.silu(norm()(y)))
            y = norm()(nn.Conv(filters, (1, 1), use_bias=False)(y))
            if x.shape == y.shape:
                y = x + nn.Dropout(0.1 * i, broadcast_dims=(1, 2, 3), deterministic=still)(y)
            x = y
        x = nn.silu(norm()(nn.Conv(12, (1, 1), use_bias=False)(x)))
        return nn.Dense(CLASSES)(nn.Dropout(0.2, deterministic=still)(x.mean((1, 2))))


class ConvNeXtBlock(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, deterministic):
        channels = x.shape[-1]
        y = nn.Conv(channels, (7, 7), feature_group_count=channels)(x)
        y = nn.LayerNorm(epsilon=1e-6)(y)
        y = nn.Dense(channels)(nn.gelu(nn.Dense(3 * channels)(y)))
        y = y * self.param("layer_scale", nn.initializers.constant(1e-6), (channels,))
        return x + nn.Dropout(self.rate, broadcast_dims=(1, 2, 3), deterministic=deterministic)(y)


class ConvNeXt(nn.Module):
    """Liu et al., 2022, arXiv 2201.03545."""

    @nn.compact
    def __call__(self, x, deterministic: bool):
        for stage, (width, blocks) in enumerate(((6, 1), (8, 2), (10, 1))):
            if stage == 0:
                x = nn.LayerNorm(epsilon=1e-6)(nn.Conv(width, (4, 4), (4, 4), padding="VALID")(x))
            else:
                x = nn.Conv(width, (2, 2), (2, 2), padding="VALID")(nn.LayerNorm(epsilon=1e-6)(x))
            for _ in range(blocks):
                x = ConvNeXtBlock(0.1)(x, deterministic)
        return nn.Dense(CLASSES)(nn.LayerNorm(epsilon=1e-6)(x.mean((1, 2))))


class EncoderBlock(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x, *, deterministic):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=0.1, deterministic=deterministic)(y, y)
        x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
        y = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        y = nn.Dense(x.shape[-1])(nn.Dropout(0.1)(y, deterministic=deterministic))
        return x + nn.Dropout(0.1)(y, deterministic=deterministic)


class ViT(nn.Module):
    """Dosovitskiy et al., 2021, arXiv 2010.11929; called as in the paper's own code."""

    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.Conv(12, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(inputs)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("cls", nn.initializers.zeros, (1, 1, x.shape[-1]))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = nn.Dropout(0.1)(x, deterministic=not train)
        for _ in range(2):
            x = EncoderBlock(3, 20)(x, deterministic=not train)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="encoder_norm")(x)[:, 0])


class MixerBlock(nn.Module):
    tokens: int
    channels: int

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(y.shape[-1])(nn.gelu(nn.Dense(self.tokens)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        y = nn.gelu(nn.Dense(self.channels)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class MLPMixer(nn.Module):
    """Tolstikhin et al., 2021, arXiv 2105.01601; `train` is there and does nothing, as in the paper's code."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        del train
        x = nn.Conv(10, (4, 4), strides=(4, 4), name="stem")(inputs)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(2):
            x = MixerBlock(9, 14)(x)
        x = nn.LayerNorm(name="pre_head_layer_norm")(x)
        return nn.Dense(CLASSES, name="head")(x.mean(axis=1))


# NNX. `eval()` sets `use_running_average` and `deterministic` of every layer.


class NnxCNN(nnx.Module):
    """As in Flax's NNX tutorial, with batch norm and dropout."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 6, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(6, rngs=rngs)
        self.conv2 = nnx.Conv(6, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(rate=0.25, rngs=rngs)
        self.linear1 = nnx.Linear(4 * 4 * 8, 12, rngs=rngs)
        self.linear2 = nnx.Linear(12, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.batch_norm1(self.conv1(x))), window_shape=(2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.batch_norm2(self.conv2(x))), window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # flatten
        x = nnx.relu(self.dropout(self.linear1(x)))
        return self.linear2(x)


class NnxBlock(nnx.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.linear1 = nnx.Linear(width, hidden, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.dropout(self.linear2(nnx.gelu(self.linear1(self.norm2(x)))))


class NnxViT(nnx.Module):
    """A ViT as in Flax's NNX examples."""

    def __init__(self, *, rngs: nnx.Rngs):
        width = 12
        self.patches = nnx.Conv(3, width, kernel_size=(4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(jnp.zeros((1, 17, width)))
        self.blocks = nnx.List([NnxBlock(width, 3, 20, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.classifier = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x)[:, 0])


# Equinox's manner: a module is a pytree whose weights are (out, in, ...), called on one CHW image under `jax.vmap`.


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["padding"])
@dataclasses.dataclass(frozen=True)
class Conv2d:
    weight: Any  # (out, in, height, width)
    bias: Any  # (out, 1, 1)
    padding: int = 1

    def __call__(self, x):
        sides = [(self.padding, self.padding)] * 2
        y = lax.conv_general_dilated(jnp.expand_dims(x, 0), self.weight, (1, 1), sides)
        return jnp.squeeze(y, 0) + self.bias


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias", "mean", "var"], meta_fields=["eps"])
@dataclasses.dataclass(frozen=True)
class BatchNorm:
    weight: Any
    bias: Any
    mean: Any
    var: Any
    eps: float = 1e-5

    def __call__(self, x):
        def normalised(y, mean, var, weight, bias):
            return (y - mean) / jnp.sqrt(var + self.eps) * weight + bias

        return jax.vmap(normalised)(x, self.mean, self.var, self.weight, self.bias)


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Linear:
    weight: Any  # (out, in)
    bias: Any

    def __call__(self, x):
        return self.weight @ x + self.bias


def max_pool2d(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID")


@partial(jax.tree_util.register_dataclass, data_fields=["layers"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class EquinoxCNN:
    layers: list

    def __call__(self, x):
        conv1, norm, conv2, linear1, linear2 = self.layers
        x = max_pool2d(jax.nn.relu(norm(conv1(x))))
        x = max_pool2d(jax.nn.relu(conv2(x)))
        x = jax.nn.relu(linear1(jnp.ravel(x)))
        return linear2(x)


def apply_equinox(model: EquinoxCNN, images: jax.Array) -> jax.Array:
    return jax.vmap(model)(jnp.transpose(images, (0, 3, 1, 2)))


def apply_plain(variables: list, images: jax.Array) -> jax.Array:
    """A multilayer perceptron in plain JAX: a list of pairs (weight, bias), as in JAX's own first examples."""
    x = images.reshape(images.shape[0], -1)
    for weight, bias in variables[:-1]:
        x = jnp.tanh(jnp.dot(x, weight) + bias) if weight.shape[0] < 100 else jax.nn.relu(jnp.dot(x, weight) + bias)
    weight, bias = variables[-1]
    return jnp.dot(x, weight) + bias


# Random weights.


def random_leaf(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 leaf of a usual size for its name: no zeros, no ones."""
    normal = rng.normal(size=shape)
    if name == "var":
        value = rng.uniform(0.5, 2.0, shape)
    elif name in ("scale", "layer_scale"):
        value = 0.9 + 0.3 * normal  # now and then near zero, or below
    elif name in ("kernel", "weight"):
        transposed = name == "weight" and len(shape) > 1
        value = normal * np.sqrt(1.7 / np.prod(shape[1:] if transposed else shape[:-1]))
        value = value + 1 if len(shape) == 1 else value
    else:
        value = 0.3 * normal
    return value.astype(np.float32)


def randomised(tree: Any, seed: int = 0) -> Any:
    """`tree` with random floats in place of its leaves (arrays or their shapes), by the last name of their paths."""
    rng = np.random.default_rng(seed)

    def leaf(path, old):
        name = jax.tree_util.keystr(path, simple=True, separator="/").rpartition("/")[2]
        return jnp.asarray(random_leaf(rng, name, old.shape))

    return jax.tree_util.tree_map_with_path(leaf, tree)


# name -> the module and the arguments with which it is in eval mode.
LINEN: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "tutorial_cnn": (TutorialCNN(), {}),
    "resnet18": (ResNet18(), {"train": False}),
    "preact_resnet": (PreActResNet(), {"training": False}),
    "densenet": (DenseNet(), {"use_running_average": True}),
    "googlenet": (GoogLeNet(), {"train": False}),
    "mobilenet_v2": (MobileNetV2(), {"train": False}),
    "mobilenet_v3": (MobileNetV3(), {"training": False}),
    "efficientnet": (EfficientNet(), {"deterministic": True}),
    "convnext": (ConvNeXt(), {"deterministic": True}),
    "vit": (ViT(), {"train": False}),
    "mlp_mixer": (MLPMixer(), {}),
}
_NNX: dict[str, type[nnx.Module]] = {"nnx_cnn": NnxCNN, "nnx_vit": NnxViT}
_SHAPES = {"resnet18": (32, 32, 3), "convnext": (32, 32, 3)}


def image_shape(name: str) -> Shape:
    """(height, width, channels) of the images that a network of the zoo sees."""
    return _SHAPES.get(name, (16, 16, 3))


def images(name: str, count: int = 4, seed: int = 0) -> jax.Array:
    """Random normalised images for the network `name`, `(count, height, width, 3)` float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *image_shape(name))).astype(np.float32))


@lru_cache(maxsize=32)
def linen(name: str) -> tuple[nn.Module, Any]:
    """(module, variables) of `LINEN[name]`; `variables` as `module.init` would give them, with random leaves."""
    module, arguments = LINEN[name]
    given = jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape(name)), jnp.float32)
    return module, randomised(jax.eval_shape(partial(module.init, **arguments), *given))


def nnx_module(name: str) -> nnx.Module:
    """A new module of the class `name`, with random leaves, in the mode in which NNX makes it: training."""
    module = _NNX[name](rngs=nnx.Rngs(0))
    graph, kept, rest = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)
    pure = randomised(nnx.to_pure_dict(kept))
    nnx.replace_by_pure_dict(kept, pure)
    return nnx.merge(graph, kept, rest)


@lru_cache(maxsize=32)
def _linen_entry(name: str) -> tuple[Callable, Any]:
    arguments = LINEN[name][1]
    module, variables = linen(name)
    return partial(module.apply, **arguments), variables


@lru_cache(maxsize=32)
def _nnx_entry(name: str) -> tuple[Callable, Any]:
    module = nnx_module(name)
    module.eval()
    graph, kept, rest = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)

    def apply(variables, images):
        state = jax.tree.map(lambda leaf: leaf, kept)
        nnx.replace_by_pure_dict(state, variables)
        return nnx.merge(graph, state, rest)(images)

    return apply, nnx.to_pure_dict(kept)


@lru_cache(maxsize=1)
def _equinox_entry() -> tuple[Callable, Any]:
    def empty(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layers = [
        Conv2d(empty(6, 3, 3, 3), empty(6, 1, 1)),
        BatchNorm(empty(6), empty(6), empty(6), empty(6)),
        Conv2d(empty(8, 6, 3, 3), empty(8, 1, 1)),
        Linear(empty(12, 4 * 4 * 8), empty(12)),
        Linear(empty(CLASSES, 12), empty(CLASSES)),
    ]
    return apply_equinox, randomised(EquinoxCNN(layers))


@lru_cache(maxsize=1)
def _plain_entry() -> tuple[Callable, Any]:
    rng, sizes = np.random.default_rng(0), (16 * 16 * 3, 12, 10, CLASSES)

    def leaf(name, *shape):
        return jnp.asarray(random_leaf(rng, name, shape))

    return apply_plain, [(leaf("kernel", *pair), leaf("bias", pair[1])) for pair in itertools.pairwise(sizes)]


ZOO: dict[str, Callable[[], tuple[Callable[[Any, jax.Array], jax.Array], Any]]] = {
    **{name: partial(_linen_entry, name) for name in LINEN},
    **{name: partial(_nnx_entry, name) for name in _NNX},
    "equinox_cnn": _equinox_entry,
    "plain_mlp": _plain_entry,
}

LARGE = ("resnet18", "densenet", "googlenet", "efficientnet", "convnext", "mobilenet_v2", "preact_resnet")
"""Those that take seconds to compile."""
