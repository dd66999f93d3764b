"""Other people's PyTorch networks: modules whose parameters have the names of the published weights.

`--network=benchmarks.brought.torch_networks:resnet20` names the function that builds one. The weights are those of

- ResNet-20, ResNet-32: https://github.com/akamaster/pytorch_resnet_cifar10 (He et al. 2016, arXiv 1512.03385)
- ViT: https://github.com/zlwu00/consistency_models, for https://github.com/tintn/vision-transformer-from-scratch
  (Dosovitskiy et al. 2021, arXiv 2010.11929)
- MicroNet: https://github.com/Kthyeon/micronet_neurips_challenge, in the manner of MobileNetV3 (arXiv 1905.02244)
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


def resnet20() -> nn.Module:
    """ResNet-20 for CIFAR-10: 269,722 parameters."""
    return ResNet((3, 3, 3))


def resnet32() -> nn.Module:
    """ResNet-32 for CIFAR-10: 464,154 parameters."""
    return ResNet((5, 5, 5))


def vit() -> nn.Module:
    """ViT for CIFAR-10, patches of 4x4 pixels, a class token: 119,098 parameters."""
    return ViT()


def micronet() -> nn.Module:
    """MicroNet, version 2, for CIFAR-100: 485,330 parameters, with masks for each convolution and the head."""
    return MicroNet()


class OptionA(nn.Module):
    """A shortcut without parameters: every second pixel, and channels of zeros on both sides."""

    def __init__(self, added: int):
        super().__init__()
        self.added = added  # channels on each side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with the activation after the sum."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        grows = inputs != channels
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=2 if grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = OptionA((channels - inputs) // 2) if grows else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(z)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of `blocks` residual blocks; the second and the third halve the sides of the map.

    Args:
      blocks: number of blocks in each stage.
      channels: number of channels in each stage.
      classes: outputs of the head.
    """

    def __init__(self, blocks: Sequence[int], channels: Sequence[int] = (16, 32, 64), classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*[BasicBlock(before if block == 0 else width, width) for block in range(count)])
            for before, width, count in zip((channels[0], *channels), channels, blocks, strict=False)
        )
        self.linear = nn.Linear(channels[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Embedding(nn.Module):
    """Tokens of patches after a class token, with learned positions."""

    def __init__(self, size: int, patch: int, width: int):
        super().__init__()
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, stride=patch)})
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings["projection"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], dim=1)
        return tokens + self.position_embeddings


class Attention(nn.Module):
    """Multi-head attention; one product computes queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_projection = nn.Linear(width, 3 * width)
        self.output_projection = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv_projection(x).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return self.output_projection((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention and an MLP, each with a layer norm and a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.layernorm_1 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"dense_1": nn.Linear(width, hidden), "dense_2": nn.Linear(hidden, width)})
        self.layernorm_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.layernorm_1(x))
        z = functional.gelu(self.mlp["dense_1"](self.layernorm_2(x)), approximate="tanh")
        return x + self.mlp["dense_2"](z)


class ViT(nn.Module):
    """A vision transformer whose head reads the class token, without a norm in front of the head.

    Args:
      size: side of an image, in pixels.
      patch: side of a patch.
      width: size of a token.
      hidden: units of an MLP.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        patch: int = 4,
        width: int = 48,
        layers: int = 4,
        heads: int = 4,
        hidden: int = 192,
        classes: int = 10,
    ):
        super().__init__()
        self.embedding = Embedding(size, patch, width)
        blocks = nn.ModuleList([EncoderBlock(width, heads, hidden) for _ in range(layers)])
        self.encoder = nn.ModuleDict({"blocks": blocks})
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.encoder["blocks"]:
            x = block(x)
        return self.classifier(x[:, 0])


class MaskedConv2d(nn.Conv2d):
    """A convolution with pruned weights: `mask` is 0 for pruned ones."""

    def __init__(self, *given: int, **options: object):
        super().__init__(*given, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, _masked(self), self.bias)


class MaskedLinear(nn.Linear):
    """A linear layer of pruned weights, as `MaskedConv2d`."""

    def __init__(self, *given: int, **options: object):
        super().__init__(*given, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, _masked(self), self.bias)


def _masked(layer: MaskedConv2d | MaskedLinear) -> torch.Tensor:
    return layer.weight if layer.mask is None else layer.weight * layer.mask


def without_masks(network: nn.Module) -> nn.Module:
    """The network whose layers read their weights directly, which must be products with the masks."""
    for layer in network.modules():
        if isinstance(layer, MaskedConv2d | MaskedLinear):
            layer.mask = None
    return network


class InvertedResidual(nn.Module):
    """Expands by a 1x1 convolution, convolves each channel, projects, and applies squeeze-and-excitation.

    The shortcut, with its own projection if the channels change, is added after the scaling. As published, a block of
    stride 2 has neither: its `fc1` and `fc2` are not read.
    """

    def __init__(self, inputs: int, channels: int, stride: int, expansion: float = 2.5):
        super().__init__()
        width = int(expansion * inputs)
        self.conv1, self.bn1 = MaskedConv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = MaskedConv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = MaskedConv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.has_shortcut = stride == 1
        self.shortcut = nn.Sequential()
        if self.has_shortcut and inputs != channels:
            self.shortcut = nn.Sequential(
                MaskedConv2d(inputs, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
        self.fc1, self.fc2 = MaskedConv2d(channels, channels // 4, 1), MaskedConv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = functional.hardswish(self.bn1(self.conv1(x)))
        z = functional.hardswish(self.bn2(self.conv2(z)))
        z = self.bn3(self.conv3(z))
        if not self.has_shortcut:
            return z
        weights = functional.hardswish(self.fc1(z.mean((2, 3), keepdim=True)))
        return z * self.fc2(weights).sigmoid() + self.shortcut(x)


class MicroNet(nn.Module):
    """Inverted residuals with squeeze-and-excitation and hard-swish.

    Args:
      stages: (channels, blocks, stride of the first block) of each stage.
    """

    def __init__(
        self,
        stem: int = 32,
        stages: Sequence[tuple[int, int, int]] = (
            (20, 2, 1),
            (36, 1, 2),
            (36, 1, 1),
            (56, 3, 1),
            (80, 1, 2),
            (80, 4, 1),
            (88, 1, 2),
            (96, 2, 1),
            (114, 1, 1),
        ),
        classes: int = 100,
    ):
        super().__init__()
        self.conv1, self.bn1 = MaskedConv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        layers, inputs = [], stem
        for channels, blocks, stride in stages:
            for block in range(blocks):
                layers.append(InvertedResidual(inputs, channels, stride if block == 0 else 1))
                inputs = channels
        self.layers = nn.Sequential(*layers)
        self.linear = MaskedLinear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(functional.hardswish(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))
