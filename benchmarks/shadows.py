"""Seconds to train a shadow model: all together in one vmapped step, in turn, and one per device.

python -m benchmarks.shadows [--config=configs/digits.py] [--number=8] [--epochs=3] [--json=FILE]

All ways have the same recipe, start and orders of images, in one process; each first runs a warm-up epoch that
compiles. `choose_way` in `osp_jax/audit/shadow/model_epochs.py` is based on these results.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks import cli
from osp_jax.audit.shadow.model_epochs import choose_way, epochs_of_all
from osp_jax.audit.shadow.pool import draw_keep, shadow_pool
from osp_jax.audit.shadow.train import epoch_orders, start_shadows
from osp_jax.data.sources import load_data
from osp_jax.runtime.arguments import whole
from osp_jax.runtime.config_files import load_config
from osp_jax.runtime.settings import validated
from osp_jax.training.loop import training_indices
from osp_jax.training.recipe import penalty_weight


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--config", default="configs/digits.py", help="the recipe; a Python file")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder")
    arguments.add_argument("--number", type=whole(4, 4096), default=8, help="of shadow models")
    arguments.add_argument("--epochs", type=whole(1, 1000000), default=3, help="that are timed; the median counts")
    flags = arguments.parse_args()
    config = validated(load_config(flags.config))
    dataset = load_data({**config.data, "dir": flags.data_dir or config.data.dir})
    pool = shadow_pool(dataset, training_indices(config, dataset)[0])
    keep = draw_keep(pool.labels, flags.number, config.seed)
    start = start_shadows(config, pool, dataset.num_classes, keep)
    weight = jnp.float32(penalty_weight(config, 1))

    devices = jax.device_count()
    ways = ["in turn", "together"] + ["a model a device"] * (devices > 1 and flags.number % devices == 0)
    rows = []
    for way in ways:
        run_epochs, states, times = epochs_of_all(way, start.recipe.step, pool, flags.number), start.states, []
        for epoch in range(1, flags.epochs + 2):
            orders = epoch_orders(start, epoch, config.training.batch_size)
            begun = time.perf_counter()
            states, _ = jax.block_until_ready(run_epochs(states, orders, start.step_keys, weight))
            times.append(time.perf_counter() - begun)
        epoch_seconds = statistics.median(times[1:])
        each = epoch_seconds * config.training.epochs / flags.number
        rows.append({"way": way, "models": flags.number, "first epoch s": times[0], "epoch s": epoch_seconds})
        rows[-1] |= {"s a model": each, "in turn / this": rows[0].get("s a model", each) / each}
    cli.report(rows, flags.json)
    batch, ratio = config.training.batch_size, rows[1]["s a model"] / rows[0]["s a model"]
    print(
        f"{config.model.name} on {dataset.variant}, {config.training.epochs} epochs of {start.steps} steps of {batch} "
        f"images; together takes {ratio:.2f} times as long as in turn; chosen here: {choose_way(flags.number)}"
    )


if __name__ == "__main__":
    cli.run(main)
