"""Training images per second: our step and PyTorch's, for the same residual network, batch and precision.

python -m benchmarks.throughput [--models=resnet8,resnet18] [--dtype=bfloat16] [--json=FILE]

Both take uint8 images on the device, normalise them, and make a step of SGD with Nesterov momentum and weight decay,
without augmentation. PyTorch uses channels last and, on a GPU, torch.compile; only this benchmark needs it. The two
alternate within one process. Images and labels are random: the time does not depend on them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cli
from configs import default
from osp_jax.data.augment import Preparation
from osp_jax.networks import MODELS, create_model
from osp_jax.runtime.arguments import several, whole
from osp_jax.runtime.distributed import on_cpu
from osp_jax.training.recipe import make_recipe

_CLASSES, _MEAN, _STD = 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_RATE, _MOMENTUM, _DECAY = 0.01, 0.9, 5e-4


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=several(cli.network), default="resnet8,resnet18")
    arguments.add_argument("--batch", type=whole(1, 65536), default=128)
    arguments.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments.add_argument("--size", type=whole(1, 4096), default=32, help="pixels a side")
    arguments.add_argument("--steps", type=whole(1, 1000000), default=20)
    flags = arguments.parse_args()
    images, labels = cli.random_images(flags.batch, flags.size, _CLASSES)
    rows = []
    for model in flags.models:
        programs = {
            "osp_jax": jax_step(model, flags.dtype, images, labels),
            "PyTorch": torch_step(model, flags.dtype, images, labels),
        }
        wall, _ = cli.in_turn(programs, flags.steps)
        rate = {name: flags.batch / seconds for name, seconds in wall.items()}
        setting = {"model": model, "batch": flags.batch, "size": flags.size, "dtype": flags.dtype}
        speeds = {f"{name} images/s": value for name, value in rate.items()}
        rows.append({**setting, **speeds, "osp_jax / PyTorch": rate["osp_jax"] / rate["PyTorch"]})
    cli.report(rows, flags.json)


def jax_step(name: str, dtype: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A training step as in `experiments.train`."""
    step, first, given = compiled_step(name, dtype, images, labels)
    state = [first]

    def run() -> None:
        state[0], metrics = step(state[0], *given)
        jax.block_until_ready((state[0], metrics))

    return run


def compiled_step(
    name: str, dtype: str, images: np.ndarray, labels: np.ndarray
) -> tuple[jax.stages.Compiled, Any, Any]:
    """(the step, its initial state, which it overwrites, its other arguments)"""
    config = default.get_config()
    config.training.update(learning_rate=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
    config.orthogonality.penalty = "none"
    model = create_model(name, _CLASSES, images.shape[1:], dtype=dtype)
    recipe = make_recipe(config, model, images.shape[1:], Preparation(_MEAN, _STD), steps=1000)
    order, data = jnp.arange(len(images)), (jnp.asarray(images), jnp.asarray(labels))
    given = order, *data, recipe.step_key, jnp.float32(0)
    return jax.jit(recipe.step, donate_argnums=0).lower(recipe.start, *given).compile(), recipe.start, given


def torch_step(name: str, dtype: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """The same in PyTorch."""
    import torch

    device = "cpu" if on_cpu() else "cuda"
    settings = getattr(MODELS[name], "keywords", {})
    if not name.startswith("resnet") or "block" in settings:
        raise SystemExit(f"{name} is not written in PyTorch here; take a residual network of basic blocks")
    network = torch_resnet(settings["stage_sizes"], settings["width"]).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), _RATE, _MOMENTUM, weight_decay=_DECAY, nesterov=True)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # b h w c -> b c h w, in the same memory
    classes = torch.from_numpy(labels).long().to(device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return torch.nn.functional.cross_entropy(network((pixels.float() / 255 - mean) / std), classes)

    if device == "cuda":
        loss = torch.compile(loss)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_resnet(stage_sizes: tuple[int, ...], width: int) -> Any:
    """`osp_jax.networks.resnet.ResNet` with basic blocks and the stem for small images."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *convolution(outputs, outputs, 3, 1)
            )
            same = inputs == outputs and stride == 1
            self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)

    def convolution(inputs: int, outputs: int, side: int, stride: int) -> tuple[Any, Any]:
        return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs)

    layers, inputs = [*convolution(3, width, 3, 1), nn.ReLU(inplace=True)], width
    for stage, blocks in enumerate(stage_sizes):
        for i in range(blocks):
            outputs = width * 2**stage
            layers.append(Block(inputs, outputs, 2 if stage and not i else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, _CLASSES))


if __name__ == "__main__":
    cli.run(main)
