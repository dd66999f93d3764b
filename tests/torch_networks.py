"""Small PyTorch networks in the usual style; 3 x 16 x 16 images and 10 classes unless noted."""

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody names it)
from torch import nn


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode, with random weights and running statistics such as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.5 * torch.tanh(noise))
            elif tensor.ndim >= 2:
                tensor.copy_(noise * (2 / max(tensor[0].numel(), 1)) ** 0.5)
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.2 * torch.tanh(noise))
            else:
                tensor.copy_(0.1 * noise)
    return module.eval()


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    """Of a ResNet for CIFAR; shortcuts are option A: every second pixel, and zeros for the new channels."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            new = (after - before) // 2
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new, new), "constant", 0))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self, blocks=3, width=16, classes=10):
        super().__init__()
        self.before = width
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, blocks, 1)
        self.layer2 = self._layer(2 * width, blocks, 2)
        self.layer3 = self._layer(4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, classes)

    def _layer(self, after, blocks, stride):
        layers = []
        for each in [stride] + [1] * (blocks - 1):
            layers.append(Block(self.before, after, each))
            self.before = after
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class DenseLayer(nn.Module):
    def __init__(self, before, growth, drop=0.0):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.drop = drop

    def forward(self, features):
        features = torch.cat(features, 1) if isinstance(features, list) else features
        new = self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(features))))))
        return F.dropout(new, self.drop, self.training) if self.drop else new


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers, before, growth):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(before + i * growth, growth))

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self, growth=4, blocks=(2, 2), classes=10):
        super().__init__()
        width = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 3, padding=1, bias=False))
        for i, layers in enumerate(blocks):
            self.features.add_module(f"denseblock{i + 1}", DenseBlock(layers, width, growth))
            width += layers * growth
            if i + 1 < len(blocks):
                transition = nn.Sequential(
                    nn.BatchNorm2d(width),
                    nn.ReLU(True),
                    nn.Conv2d(width, width // 2, 1, bias=False),
                    nn.AvgPool2d(2, 2),
                )
                self.features.add_module(f"transition{i + 1}", transition)
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        out = F.relu(self.features(x), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class SqueezeExcite(nn.Module):
    def __init__(self, width, squeezed):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(self.avgpool(x)))))


def convolution(before, after, kernel=3, stride=1, groups=1, activation=nn.Hardswish):
    layers = [nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class InvertedResidual(nn.Module):
    def __init__(self, before, inner, after, kernel, stride, excite, activation):
        super().__init__()
        self.residual = stride == 1 and before == after
        layers = [convolution(before, inner, 1, activation=activation)] if inner != before else []
        layers.append(convolution(inner, inner, kernel, stride, inner, activation))
        layers += [SqueezeExcite(inner, max(inner // 4, 4))] if excite else []
        layers.append(convolution(inner, after, 1, activation=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        result = self.block(x)
        if self.residual:
            result += x
        return result


class MobileNetV3(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 8, stride=1),
            InvertedResidual(8, 8, 8, 3, 2, True, nn.ReLU),
            InvertedResidual(8, 24, 12, 3, 1, False, nn.ReLU),
            InvertedResidual(12, 32, 12, 5, 1, True, nn.Hardswish),
            InvertedResidual(12, 32, 16, 5, 2, True, nn.Hardswish),
            convolution(16, 32, 1),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(32, 48), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(48, classes)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ViT(nn.Module):
    def __init__(self, classes=10, width=24, heads=3, depth=2, size=16, patch=4, norm_first=True, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.1, "gelu", norm_first=norm_first, batch_first=batch_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.norm(x)[:, 0])


class SmallCNN(nn.Module):
    """Two convolutions with batch norm, dropout and a head."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, 2, 1)
        self.bn2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.drop(x.mean((2, 3))))


class VGG(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        layers, before = [], 3
        for width in (6, "pool", 8, 10, "pool"):
            if width == "pool":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        hidden = [
            nn.Linear(4 * before, 16),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(16, 12),
            nn.ReLU(True),
            nn.Dropout(),
        ]
        self.classifier = nn.Sequential(*hidden, nn.Linear(12, classes))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class EfficientNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 6, 3, 2, activation=nn.SiLU),
            InvertedResidual(6, 6, 6, 3, 1, True, nn.SiLU),
            InvertedResidual(6, 12, 8, 5, 2, True, nn.SiLU),
            InvertedResidual(8, 16, 8, 3, 1, True, nn.SiLU),
            convolution(8, 12, 1, activation=nn.SiLU),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pointwise1 = nn.Linear(width, 3 * width)
        self.pointwise2 = nn.Linear(3 * width, width)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.pointwise2(F.gelu(self.pointwise1(y))).permute(0, 3, 1, 2)
        return x + self.layer_scale * y


class ConvNeXt(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 4, 4), LayerNorm2d(6, eps=1e-6)),
            ConvNeXtBlock(6),
            nn.Sequential(LayerNorm2d(6, eps=1e-6), nn.Conv2d(6, 8, 2, 2)),
            ConvNeXtBlock(8),
        )
        self.classifier = nn.Sequential(LayerNorm2d(8, eps=1e-6), nn.Flatten(1), nn.Linear(8, classes))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1))


class WindowAttention(nn.Module):
    """Of Swin: in windows, the image rolled by `shift`, with a table of relative positions."""

    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + window - 1
        self.register_buffer("relative_position_index", apart[0] * (2 * window - 1) + apart[1])

    def mask(self, side):
        """Minus 100 between entries of a window that were not beside each other before the roll."""
        regions = torch.bucketize(torch.arange(side), torch.tensor([side - self.window, side - self.shift]), right=True)
        regions = self.windows((3 * regions[:, None] + regions)[None, :, :, None])[..., 0]
        return torch.where(regions[:, None] == regions[:, :, None], 0.0, -100.0)

    def windows(self, x):
        count, side, w = x.shape[0], x.shape[1] // self.window, self.window
        return x.reshape(count, side, w, side, w, -1).transpose(2, 3).reshape(count * side**2, w * w, -1)

    def forward(self, x):
        count, side, _, width = x.shape
        w, n = self.window, side // self.window
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = self.windows(x)
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)
        table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        scores = scores + table.view(w * w, w * w, -1).permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            scores = scores.view(count, n * n, self.heads, w * w, w * w) + self.mask(side)[:, None]
            scores = scores.view(-1, self.heads, w * w, w * w)
        x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.proj(x).view(count, n, n, w, w, width).transpose(2, 3).reshape(count, side, side, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class SwinBlock(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shift)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x))


class Swin(nn.Module):
    def __init__(self, classes=10, width=6):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 2, 2)
        self.blocks = nn.Sequential(
            SwinBlock(width, 2, 4, 0), SwinBlock(width, 2, 4, 2), PatchMerging(width), SwinBlock(2 * width, 2, 4, 0)
        )
        self.norm = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.norm(self.blocks(self.patch_embed(x).permute(0, 2, 3, 1)))
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


class FusedAttention(nn.Module):
    """Queries, keys and values of all heads from one matrix; scores and softmax written out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv_projection = nn.Linear(width, 3 * width)
        self.output_projection = nn.Linear(width, width)

    def forward(self, x):
        count, places, width = x.size()
        parts = torch.chunk(self.qkv_projection(x), 3, dim=-1)
        q, k, v = (part.view(count, places, self.heads, -1).transpose(1, 2) for part in parts)
        scores = torch.matmul(q, k.transpose(-1, -2)) / (width // self.heads) ** 0.5
        x = torch.matmul(F.softmax(scores, dim=-1), v)
        return self.output_projection(x.transpose(1, 2).contiguous().view(count, places, width))


class FusedViT(nn.Module):
    """A ViT with fused attention, GELU by the tanh formula, and no norm in front of the head."""

    def __init__(self, classes=10, width=12, heads=3, depth=2, size=16, patch=4):
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        blocks = [
            nn.ModuleDict(
                {
                    "layernorm_1": nn.LayerNorm(width),
                    "attention": FusedAttention(width, heads),
                    "layernorm_2": nn.LayerNorm(width),
                    "dense_1": nn.Linear(width, 2 * width),
                    "dense_2": nn.Linear(2 * width, width),
                }
            )
            for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        x = self.projection(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.size(0), -1, -1), x), dim=1) + self.position_embeddings
        for block in self.blocks:
            x = x + block["attention"](block["layernorm_1"](x))
            y = block["dense_1"](block["layernorm_2"](x))
            y = 0.5 * y * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * torch.pow(y, 3.0))))
            x = x + block["dense_2"](y)
        return self.classifier(x[:, 0, :])


class MicroBlock(nn.Module):
    """An inverted residual with squeeze-and-excitation by dense layers and a hard-swish written out, as in MicroNet."""

    def __init__(self, before, inner, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.se = nn.Sequential(nn.Linear(inner, 4), nn.ReLU(inplace=True), nn.Linear(4, inner))
        self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.residual = stride == 1 and before == after

    def forward(self, x):
        out = self.bn1(self.conv1(x))
        out = out * (F.relu6(out + 3.0, inplace=True) / 6.0)
        out = self.bn2(self.conv2(out))
        out = out * (F.relu6(out + 3.0, inplace=True) / 6.0)
        squeezed = self.se(F.adaptive_avg_pool2d(out, 1).view(out.size(0), -1))
        out = out * torch.sigmoid(squeezed).view(out.size(0), -1, 1, 1)
        out = self.bn3(self.conv3(out))
        return x + out if self.residual else out


class MicroNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True))
        self.layers = nn.Sequential(MicroBlock(6, 12, 8, 2), MicroBlock(8, 16, 8, 1), MicroBlock(8, 16, 10, 2))
        self.fc = nn.Linear(10, classes)

    def forward(self, x):
        out = F.adaptive_avg_pool2d(self.layers(self.stem(x)), 1)
        return self.fc(out.view(out.size(0), -1))


NETWORKS = {
    "ResNet-20": lambda: ResNet(3, 8),
    "DenseNet": DenseNet,
    "MobileNetV3": MobileNetV3,
    "ViT": ViT,
    "ViT, tokens first": lambda: ViT(norm_first=False, batch_first=False),
    "ViT, fused": FusedViT,
    "Swin": Swin,
    "ConvNeXt": ConvNeXt,
    "EfficientNet": EfficientNet,
    "MicroNet": MicroNet,
    "VGG": VGG,
}
