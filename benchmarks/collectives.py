"""Bytes exchanged by devices in a training step and in a batch of statistics, counted in the compiled programs.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.collectives [--json=FILE]

The programs are compiled for a mesh of all devices and read, not run, so that thousands of classes need no memory. The
number of classes determines the bytes, the pixels do not. Work is XLA's count for the program of one device before
compilation: for all images of the batch, forward and backward.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import cli
from configs import default
from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import from_linen
from osp_jax.networks import count_parameters, create_model
from osp_jax.program.gates import gates_of, noise_images
from osp_jax.runtime.arguments import several, whole
from osp_jax.runtime.distributed import make_mesh, using
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import adder, no_images
from osp_jax.training.recipe import make_recipe

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s64": 8, "s32": 4, "u32": 4, "u8": 1, "s8": 1, "pred": 1}


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--model", type=cli.network, default="resnet50")
    arguments.add_argument("--classes", type=several(whole(2, 10**6)), default="1000,10000,21841")
    arguments.add_argument("--stem", default="imagenet")
    arguments.add_argument("--size", type=whole(1, 4096), default=224, help="pixels a side")
    arguments.add_argument("--batch", type=whole(1, 65536), default=64)
    flags = arguments.parse_args()
    rows = []
    with using(make_mesh()):
        for classes in flags.classes:
            model = create_model(flags.model, classes, (flags.size, flags.size, 3), stem=flags.stem)
            programs = lowered_programs(model, classes, flags.size, flags.batch)
            for what, (lowered, parameters, channels) in programs.items():
                found = collectives(lowered.compile().as_text())
                rows.append(
                    {
                        "model": flags.model,
                        "classes": classes,
                        "devices": jax.device_count(),
                        "program": what,
                        "parameters": parameters,
                        "channels": channels,
                        "GFLOP an image": lowered.cost_analysis()["flops"] / flags.batch / 1e9,
                        **{f"{kind} MB": sum(found.get(kind, ())) / 1e6 for kind in ("all-reduce", "all-gather")},
                        "other MB": sum(sum(found.get(kind, ())) for kind in _KINDS[2:]) / 1e6,
                        "collectives": sum(map(len, found.values())),
                    }
                )
    cli.report(rows, flags.json)


def lowered_programs(
    model: nn.Module, classes: int, size: int, batch: int
) -> dict[str, tuple[jax.stages.Lowered, int, int]]:
    """The training step and the statistics step, each with the network's parameters and gated channels."""
    shape = (size, size, 3)
    config = default.get_config()
    config.orthogonality.penalty = "none"
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, flip=True)
    recipe = make_recipe(config, model, shape, preparation, steps=1000)
    images, labels = jax.ShapeDtypeStruct((batch, *shape), np.uint8), jax.ShapeDtypeStruct((batch,), np.int32)
    state = jax.eval_shape(lambda: recipe.start)
    training = jax.jit(recipe.step, donate_argnums=0).lower(
        state, labels, images, labels, recipe.step_key, jnp.float32(0)
    )
    variables, draw = state.variables, np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), variables)
    names = list(map(str, range(classes)))
    given = from_linen(model, variables, mean=preparation.mean, std=preparation.std, class_names=names)
    gates = gates_of(given.apply, values, noise_images(shape))
    sums = jax.eval_shape(lambda: {group.name: no_images(classes, group.channels) for group in gates.groups})
    moments = jax.ShapeDtypeStruct((3,), np.float32)
    add = adder(given.apply, gates, classes).lower(variables, sums, sums, images, labels, moments, moments)
    counts = count_parameters(variables), sum(group.channels for group in gates.groups)
    return {"a step of training": (training, *counts), "a batch of statistics": (add, *counts)}


def collectives(program: str) -> dict[str, list[int]]:
    """Bytes of the result of each collective of a compiled program, by kind, in program order."""
    found: dict[str, list[int]] = {}
    for shapes, kind in re.findall(rf"= (.+?) ({'|'.join(_KINDS)})(?:-start)?\(", program):
        found.setdefault(kind, []).append(sum(_size(*each) for each in re.findall(r"(\w+)\[([\d,]*)\]", shapes)))
    return found


def _size(dtype: str, dimensions: str) -> int:
    if dtype not in _BYTES:
        raise InputError(f"a collective exchanges {dtype}, whose size is not known here")
    return _BYTES[dtype] * math.prod(int(d) for d in dimensions.split(",") if d)


if __name__ == "__main__":
    cli.run(main)
