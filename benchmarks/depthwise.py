"""Images per second of networks with depthwise convolutions: XLA's against sums of shifted products, alternating.

python -m benchmarks.depthwise [--networks=mobilenet_v3_small,convnext_stage] [--models=DIR] [--json=FILE]

The eval-mode forward pass, jitted, on one core: speeds are by processor time, as other work may share the cores.
`convnext_stage` is ConvNeXt-tiny with one block of its first stage; `micronet` needs PyTorch and `--models`, the folder
of the weights for `benchmarks.brought`.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cli
from benchmarks.brought.imports import IMPORTED
from osp_jax.interop.imported import model_of
from osp_jax.interop.linen import from_linen
from osp_jax.interop.weight_files import read_weights
from osp_jax.model import Model
from osp_jax.networks import init_variables
from osp_jax.networks.convnext import ConvNeXt
from osp_jax.networks.cpu.depthwise import plain_convolutions
from osp_jax.runtime.arguments import path, several, whole
from osp_jax.runtime.errors import InputError, unknown

_SHAPE = (32, 32, 3)
_MOMENTS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--networks", type=several(_name), default="mobilenet_v3_small,convnext_stage")
    arguments.add_argument("--models", type=path("folder"), default=None, metavar="DIR")
    arguments.add_argument("--batch", type=whole(1, 65536), default=100)
    arguments.add_argument("--rounds", type=whole(1, 1000000), default=5)
    flags = arguments.parse_args()
    if flags.models is not None and not flags.models.is_dir():
        raise InputError(f"there is no folder {flags.models}; give --models the folder of the weights")
    rows = []
    for name in flags.networks:
        model = _NETWORKS[name](flags.models)
        images = jnp.asarray(np.random.default_rng(0).normal(size=(flags.batch, *_SHAPE)), jnp.float32)
        ours = jax.jit(model.apply).lower(model.variables, images).compile()
        with plain_convolutions():
            xla = jax.jit(model.apply).lower(model.variables, images).compile()
        calls = {key: partial(call, model.variables, images) for key, call in (("xla", xla), ("ours", ours))}
        _, seconds = cli.in_turn(calls, flags.rounds)
        row = {"network": name, "batch": flags.batch}
        row |= {f"{key}, images/s": flags.batch / seconds[key] for key in calls}
        rows.append({**row, "ours / xla": seconds["xla"] / seconds["ours"]})
    cli.report(rows, flags.json)


def _mobilenet(_: Path | None) -> Model:
    return cli.random_model("mobilenet_v3_small", 10, _SHAPE)


def _convnext_stage(_: Path | None) -> Model:
    module = ConvNeXt(10, stage_sizes=(1,))
    variables = init_variables(module, _SHAPE, jax.random.key(0))
    return from_linen(module, variables, **_MOMENTS, class_names=list(map(str, range(10))))


def _micronet(models: Path | None) -> Model:
    if models is None:
        raise InputError("micronet needs the folder of its weights; give --models=DIR")
    from benchmarks.brought.torch_networks import micronet

    weights = read_weights(models / IMPORTED["micronet"].file)
    return model_of(micronet(), weights, _SHAPE, **_MOMENTS, class_names=list(map(str, range(100))))


_NETWORKS = {"mobilenet_v3_small": _mobilenet, "convnext_stage": _convnext_stage, "micronet": _micronet}


def _name(text: str) -> str:
    if text not in _NETWORKS:
        raise unknown("network", text, _NETWORKS)
    return text


if __name__ == "__main__":
    cli.run(main)
