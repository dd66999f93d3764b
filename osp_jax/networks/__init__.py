"""Networks by name."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.data.kinds import is_text
from osp_jax.networks.allcnn import AllCNN
from osp_jax.networks.cifarnet import CifarNet
from osp_jax.networks.convnext import ConvNeXt
from osp_jax.networks.layers import CONVOLUTIONS
from osp_jax.networks.mobilenet import MobileNetV3
from osp_jax.networks.resnet import STEMS, Bottleneck, ResNet
from osp_jax.networks.text_encoder import TextEncoder
from osp_jax.networks.vgg import VGG
from osp_jax.networks.vit import ViT
from osp_jax.runtime.compiling import jit_to_run_once
from osp_jax.runtime.errors import InputError, unknown

MODELS: dict[str, Any] = {
    "resnet8": partial(ResNet, stage_sizes=(1, 1, 1), width=16),
    "resnet10": partial(ResNet, stage_sizes=(1, 1, 1, 1), width=64),
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), width=64),
    "resnet20": partial(ResNet, stage_sizes=(3, 3, 3), width=16),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64, block=Bottleneck),
    "vgg11": partial(VGG, stages=(1, 1, 2, 2, 2)),
    "vgg16": partial(VGG, stages=(2, 2, 3, 3, 3)),
    "allcnn": AllCNN,
    "cifarnet": CifarNet,
    "vit": ViT,
    "vit_b16": partial(ViT, patch=16, width=768, layers=12),
    "convnext_tiny": ConvNeXt,
    "mobilenet_v3_small": MobileNetV3,
}
"""Networks of images."""

TEXT_MODELS: dict[str, Any] = {"text_encoder": TextEncoder}
"""Networks of texts."""

_WITH_STEM = ("resnet", "convnext", "mobilenet")
_WITH_CONVOLUTION = ("resnet", "vgg", "allcnn", "cifarnet")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create_model(
    name: str,
    num_classes: int,
    image_shape: tuple[int, ...],
    *,
    width: int = 0,
    stem: str = "auto",
    dtype: str = "float32",
    convolution: str = "xla",
    layers: int = 0,
    vocabulary: int = 20_000,
) -> nn.Module:
    """Creates a Linen module; `apply(variables, images, train)` returns float32 logits `(batch, num_classes)`.

    Args:
      name: one of `MODELS`, or of `TEXT_MODELS` for texts.
      num_classes: outputs of the head.
      image_shape: (height, width, channels) of the images, or (length,) of the texts.
      width: channels of the first stage; 0 is the network's default width.
      stem: for residual networks, ConvNeXt and MobileNet: 'cifar' keeps the size of the map, 'strided' halves it,
        'imagenet' quarters it; 'auto' is 'cifar' up to 64 pixels and 'imagenet' above.
      dtype: dtype of the computation, 'float32' or 'bfloat16'; parameters are float32.
      convolution: for ResNet, VGG, All-CNN and CifarNet: 'xla', or 'cpu' for the convolutions of `networks/cpu`, which
        are faster on CPUs; the others use XLA's.
      layers: encoder blocks of 'text_encoder'; 0 is the default number.
      vocabulary: size of the vocabulary of 'text_encoder'.

    Raises:
      InputError: the name, stem, dtype or convolution is unknown, or the name is of the other kind.
    """
    texts = is_text(image_shape)
    known = TEXT_MODELS if texts else MODELS
    if name not in known:
        raise unknown("model of texts" if texts else "model", name, known)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if stem not in ("auto", *STEMS):
        raise unknown("stem", stem, ("auto", *STEMS))
    if convolution not in CONVOLUTIONS:
        raise unknown("convolution", convolution, CONVOLUTIONS)
    if width < 0:
        raise InputError(f"model.width is {width}; give a positive number of channels, or 0 for the usual width")
    if layers and not texts:
        raise InputError(f"model.layers is {layers}, and {name} has a fixed number of layers; set it to 0")
    options: dict[str, Any] = {"num_classes": num_classes, "dtype": DTYPES[dtype]}
    if width:
        options["width"] = width
    if name.startswith(_WITH_STEM):
        options["stem"] = stem if stem != "auto" else "cifar" if max(image_shape[:2]) <= 64 else "imagenet"
    if name.startswith(_WITH_CONVOLUTION):
        options["convolution"] = convolution
    if texts:
        options |= {"vocabulary": vocabulary, **({"layers": layers} if layers else {})}
    return known[name](**options)


def build_model(config: ConfigDict, num_classes: int, image_shape: tuple[int, ...]) -> nn.Module:
    """Creates the module that `config.model` names."""
    options = {key: config.model[key] for key in ("width", "stem", "dtype", "convolution")}
    if is_text(image_shape):
        options |= {"layers": config.model.layers, "vocabulary": config.data.vocabulary}
    return create_model(config.model.name, num_classes, tuple(image_shape), **options)


def init_variables(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> dict[str, Any]:
    """Fresh `{'params', 'batch_stats'}`, float32; `batch_stats` is empty for a network without normalisation."""
    return _with_statistics(_initialiser(model)(key, jnp.zeros((1, *image_shape))))


def variable_shapes(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The shapes and dtypes of the result of `init_variables`, without computing it."""
    given = jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return _with_statistics(jax.eval_shape(partial(model.init, train=False), *given))


def _with_statistics(variables: Any) -> dict[str, Any]:
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@lru_cache(maxsize=32)
def _initialiser(model: nn.Module) -> Any:
    return jit_to_run_once(partial(model.init, train=False))


def count_parameters(variables: dict[str, Any]) -> int:
    """Number of scalars in `variables['params']`."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
