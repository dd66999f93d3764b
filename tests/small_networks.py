"""Networks from outside the library, random variables for any network, and gating without a mask."""

from collections.abc import Collection, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from osp_jax import networks
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import create_model
from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.gates import Gates, capture, gates_of

CLASSES = 5

MODELS = list(networks.MODELS)
# Those whose activations are all ReLUs, written by a norm or a convolution of their own.
RELU_MODELS = [name for name in MODELS if not name.startswith(("vit", "convnext", "mobilenet"))]
# Many layers, of kinds that others have as well.
DEEP = ("resnet18", "resnet34", "vgg16", "vit_b16", "convnext_tiny", "mobilenet_v3_small")
SHAPE = (16, 16, 3)
MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


class FlatMLP(nn.Module):
    """Flatten, two hidden layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(8)(x))
        x = nn.relu(nn.Dense(6, use_bias=False)(x))
        return nn.Dense(CLASSES)(x)


class PoolNet(nn.Module):
    """Convolutions with a bias and no norm, max-pools, and a head that reads a flattened map."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.max_pool(nn.Conv(6, (3, 3), strides=2)(x), (2, 2), (2, 2)))
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


class PlainResidual(nn.Module):
    """Two blocks with identity shortcuts after a stem, batch norm, functional ReLU, names left to Flax."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        for _ in range(2):
            y = nn.relu(norm()(nn.Conv(6, (3, 3))(x)))
            x = nn.relu(x + norm()(nn.Conv(4, (3, 3))(y)))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class PreActivation(nn.Module):
    """The residual stream itself is never rectified; norm and ReLU stand at the entrance of each branch."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(4, (3, 3), name="stem")(x)
        for i in (1, 2):
            y = nn.relu(norm(name=f"bn{i}a")(x))
            y = nn.Conv(6, (3, 3), name=f"conv{i}a")(y)
            y = nn.relu(norm(name=f"bn{i}b")(y))
            x = x + nn.Conv(4, (3, 3), name=f"conv{i}b")(y)
        x = nn.relu(norm(name="bn_last")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Encoder(nn.Module):
    """A block built in `setup`, with a sequence inside."""

    def setup(self) -> None:
        self.first = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu])
        self.norm = nn.BatchNorm(use_running_average=True)
        self.second = nn.Conv(6, (3, 3), use_bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.norm(self.second(self.first(x))))


class Nested(nn.Module):
    """Submodules two levels deep; two of them share a class."""

    def setup(self) -> None:
        self.near, self.far = Encoder(), Encoder()
        self.classify = nn.Dense(CLASSES)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.classify(self.far(self.near(x)).mean((1, 2)))


class Wrapped(nn.Module):
    """Blocks under rematerialisation and under jit."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.remat(Encoder)(name="rematerialised")(x)
        x = nn.jit(Encoder)(name="compiled")(x)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class LayerNormed(nn.Module):
    """Norms that mix the channels of one position."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.LayerNorm(name="norm1")(nn.Conv(6, (3, 3), name="conv1")(x)))
        x = nn.relu(nn.GroupNorm(num_groups=2, name="norm2")(nn.Conv(8, (3, 3), name="conv2")(x)))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of He et al. (option A): the narrow stream is padded with channels of zeros."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm(name="bn1")(nn.Conv(4, (3, 3), name="conv1")(x)))
        y = nn.relu(norm(name="bn2")(nn.Conv(8, (3, 3), strides=2, name="conv2")(x)))
        y = norm(name="bn3")(nn.Conv(8, (3, 3), name="conv3")(y))
        x = nn.relu(y + jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2))))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class FlattenedEarly(nn.Module):
    """The map is flattened between its convolution and the ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), strides=4, name="conv1")(x))
        x = nn.Conv(6, (3, 3), strides=2, name="conv2")(x)
        return nn.Dense(CLASSES, name="head")(nn.relu(x.reshape(x.shape[0], -1)))


class ChannelsFirst(nn.Module):
    """Channels on the second axis in front of the ReLU, as many as the map is wide."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (3, 3))(x).transpose(0, 3, 1, 2)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, axis=1)(x))
        return nn.Dense(CLASSES)(x.mean((2, 3)))


class OtherActivation(nn.Module):
    """A network whose hidden layers have `activation` instead of ReLU."""

    activation: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.activation(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(x)


class SmoothLast(nn.Module):
    """ReLU below, a smooth activation in front of the head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Dense(6, name="hidden")(x.reshape(x.shape[0], -1)))
        x = nn.sigmoid(nn.Dense(6, name="smooth")(x))
        return nn.Dense(CLASSES, name="head")(x)


FOREIGN = {
    module.__name__: module
    for module in (
        FlatMLP,
        PoolNet,
        PlainResidual,
        PreActivation,
        Nested,
        Wrapped,
        LayerNormed,
        PaddedShortcut,
        FlattenedEarly,
    )
}


class Case(NamedTuple):
    """A small network with random variables, images to try it on, and its gates."""

    module: nn.Module
    variables: dict[str, Any]
    images: jax.Array
    gates: Gates

    @property
    def model(self) -> Model:
        """For images of the moments `MEAN` and `STD`, with the classes '0' to '4'."""
        return model_of(self.module, self.variables)


def slow_where(names: Iterable[str], large: Collection[str]) -> list[Any]:
    """Names as parameters of a test, which is slow for those in `large`."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in large else name for name in names]


@lru_cache
def case(name: str) -> Case:
    """Of a name in `MODELS` or `FOREIGN`, at a tiny width."""
    module = create_model(name, CLASSES, SHAPE, width=4) if name in MODELS else FOREIGN[name]()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, *SHAPE)), jnp.float32)
    variables = random_variables(module, images)
    return Case(module, variables, images, gates_of(model_of(module, variables).apply, variables, images))


def model_of(module: nn.Module, variables: Any) -> Model:
    """For images of the moments `MEAN` and `STD`, with the classes '0' to '4'."""
    return from_linen(module, variables, mean=MEAN, std=STD, class_names=list(map(str, range(CLASSES))))


def shapes(model: nn.Module, images: Any) -> Any:
    """The collections of a network as shapes, without any computation."""
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)


def random_variables(model: nn.Module, images: Any, seed: int = 0) -> dict[str, Any]:
    """Everything random, also what initialisation sets to 0 or 1; scales of either sign."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], leaf: Any) -> jax.Array:
        draws = {
            "kernel": lambda: rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1])),
            "scale": lambda: rng.uniform(0.5, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape),
            "var": lambda: rng.uniform(0.5, 2, leaf.shape),
        }
        value = draws.get(path[-1], lambda: 0.3 * rng.normal(size=leaf.shape))()
        return jnp.asarray(value, leaf.dtype)

    collections = shapes(model, images)
    return {
        name: traverse_util.path_aware_map(draw, collections.get(name, {})) if name in collections else {}
        for name in ("params", "batch_stats")
    }


def random_gains(gates: Gates, seed: int = 0) -> dict[str, jax.Array]:
    """In [0, 1]; in every group about a third are exactly 0, and one is exactly 1."""
    rng = np.random.default_rng(seed)
    gains = {}
    for group in gates.groups:
        gain = rng.uniform(0, 1, group.channels) * (rng.uniform(size=group.channels) > 0.3)
        gain[0], gain[-1] = 0, 1
        gains[group.name] = jnp.asarray(rng.permutation(gain), jnp.float32)
    return gains


def gated_forward(network: Case, variables: Any, gains: dict[str, Any]) -> jax.Array:
    """Logits where the value of each group is multiplied by the group's gains; no mask."""
    program = flatten(network.model.apply, variables, network.images)
    scale = {}
    for group in network.gates.groups:
        if group.name in gains:
            rank = len(program.jaxpr.eqns[group.value].outvars[0].aval.shape)
            shape = [-1 if axis == group.axis else 1 for axis in range(rank)]
            scale[group.value] = scale.get(group.value, 1) * jnp.reshape(gains[group.name], shape)
    (logits,), _ = evaluate(program, [*jax.tree.leaves(variables), network.images], scale=scale)
    return logits


def sown(model: nn.Module, variables: Any, images: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and the recorded activations by path."""
    logits, recorded = model.apply(variables, images, False, mutable=["activations"])
    return logits, traverse_util.flatten_dict(recorded.get("activations", {}), sep="/")


@lru_cache
def sown_forward(name: str) -> Any:
    """The compiled `sown` of a case, as a function of the variables: one program for all masks."""
    network = case(name)
    return jax.jit(lambda variables: sown(network.module, variables, network.images))


@lru_cache
def captured_forward(name: str) -> Any:
    """The compiled `capture` of a case, as a function of the variables."""
    network = case(name)
    apply = network.model.apply
    return jax.jit(lambda variables: capture(apply, network.gates, variables, network.images))


def relu_after(group: str, recorded: dict[str, Any]) -> str:
    """Path of the recorded activation that is the value of a group of one of our own networks."""
    block, _, name = group.rpartition("/")
    if name == "input":  # of a stream: the last activation in front of the block, or the head, that reads it
        stages = [path for path in recorded if path.startswith("stage")]
        return max(path for path in stages if block == "head" or path < block)
    prefix = f"{block}/" if block else ""
    if name == "bn_shortcut":  # the sum goes through the block's last ReLU
        return max(path for path in recorded if path.startswith(prefix))
    return prefix + name.replace("bn", "relu").replace("conv", "relu")


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest magnitude that is expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
