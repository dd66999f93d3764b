"""Class statistics over images, compared with a plain forward pass over the same images.

python -m benchmarks.statistics_pass [--models=resnet8,cifarnet] [--json=FILE]

The two alternate within one process, in batches of the same size. Images and weights are random: the time does not
depend on them. The state carried between batches is measured too: it does not grow with the number of images.
"""

from functools import partial

import jax
import numpy as np

from benchmarks import cli
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.forward import predict_logits
from osp_jax.runtime.arguments import several, whole
from osp_jax.statistics import collect_statistics


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=several(cli.network), default="resnet8,resnet18,cifarnet")
    arguments.add_argument("--classes", type=whole(2, 1000000), default=10)
    arguments.add_argument("--images", type=whole(1, 10000000), default=1024)
    arguments.add_argument("--batch", type=whole(1, 65536), default=256)
    arguments.add_argument("--passes", type=whole(1, 1000000), default=9)
    flags = arguments.parse_args()
    split = Split(*cli.random_images(flags.images, 32, flags.classes))
    indices = np.arange(flags.images)
    rows = []
    for name in flags.models:
        model = cli.random_model(name, flags.classes, (32, 32, 3))
        forward = partial(predict_logits, model, split, indices, flags.batch)

        def collect(model=model) -> object:
            return collect_statistics(model, index_batches(split, indices, flags.batch)).layers

        carried = sum(leaf.nbytes for leaf in jax.tree.leaves(collect()))
        wall, _ = cli.in_turn({"forward": forward, "statistics": collect}, flags.passes)
        plain, collected = (flags.images / wall[name] for name in ("forward", "statistics"))
        rows.append(
            {
                "model": name,
                "classes": flags.classes,
                "forward images/s": plain,
                "statistics images/s": collected,
                "statistics / forward": collected / plain,
                "carried kB": 2 * carried / 1e3,  # the sums and their rounding errors
            }
        )
    cli.report(rows, flags.json)


if __name__ == "__main__":
    cli.run(main)
