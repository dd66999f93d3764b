"""Training images per second by gradient library: `config.training.gradient` and `config.model.convolution`.

python -m benchmarks.gradients [--models=resnet8,resnet20,cifarnet] [--json=FILE]

One step as in `experiments.train`, on random images of 32x32 pixels with crops and flips. All ways alternate within one
process. PyTorch must be installed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import cli
from configs import default
from osp_jax.data.augment import Preparation
from osp_jax.networks import create_model
from osp_jax.runtime.arguments import several, whole
from osp_jax.training.recipe import make_recipe
from osp_jax.training.step import is_traceable

_WAYS = {
    "JAX, XLA's convolutions": ("jax", "xla"),
    "JAX, ours": ("jax", "cpu"),
    "PyTorch, float32": ("torch", "xla"),
    "PyTorch, bfloat16": ("torch-bfloat16", "xla"),
}


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=several(cli.network), default="resnet8,resnet20,cifarnet")
    arguments.add_argument("--batch", type=whole(1, 65536), default=128)
    arguments.add_argument("--steps", type=whole(1, 1000000), default=7)
    flags = arguments.parse_args()
    rows = []
    for model in flags.models:
        steps = {name: step_of(model, flags.batch, *way) for name, way in _WAYS.items()}
        wall, _ = cli.in_turn(steps, flags.steps)
        speeds = {f"{name}, images/s": flags.batch / seconds for name, seconds in wall.items()}
        rows.append({"model": model, "batch": flags.batch, **speeds})
    cli.report(rows, flags.json)


def step_of(name: str, batch: int, gradient: str, convolution: str) -> Callable[[], None]:
    """A function that makes a training step."""
    images, labels = map(jnp.asarray, cli.random_images(batch, 32, 10))
    config = default.get_config()
    config.training.gradient, config.orthogonality.penalty = gradient, "none"
    module = create_model(name, 10, (32, 32, 3), convolution=convolution)
    recipe = make_recipe(config, module, (32, 32, 3), Preparation((0.5,) * 3, (0.25,) * 3, pad=2, flip=True), 1000)
    step = jax.jit(recipe.step, donate_argnums=0) if is_traceable(recipe.step) else recipe.step
    state, order = [jax.tree.map(jnp.copy, recipe.start)], jnp.arange(batch)

    def run() -> None:
        state[0], metrics = step(state[0], order, images, labels, recipe.step_key, jnp.float32(0))
        jax.block_until_ready((state[0], metrics))

    return run


if __name__ == "__main__":
    cli.run(main)
