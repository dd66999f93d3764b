"""Time to evaluate a request for every class at once, compared with one evaluation and with one after another.

python -m benchmarks.evaluate_all [--images=2000] [--json=FILE]

Weights and masks are random, even if the data have fewer classes than the network: the time does not depend on them.
Calls alternate, so that a busy machine slows all equally; `cpu ratio` is of processor time, which other processes on
the same core hardly change. `ms a request` is the cost of one more: (all - one request) / (requests - 1).
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import cli
from benchmarks.evaluating import evaluate_all
from benchmarks.latency import random_statistics
from osp_jax.data.sources import Split, load_dataset
from osp_jax.forward import predict_logits
from osp_jax.interop.linen import linen_module
from osp_jax.methods.osp import Osp
from osp_jax.methods.parts.groups import chosen_groups
from osp_jax.model import Model
from osp_jax.program.gates import gates_of, noise_images
from osp_jax.runtime.arguments import whole

# Network, width (0: default), classes, and the masked channel groups: those that the head reads ('last'), or all of the
# last stage, with a convolution left behind its first group.
CASES = (
    ("resnet8", 16, 10, "last"),
    ("resnet8", 16, 200, "last"),
    ("resnet10", 16, 10, "last"),
    ("resnet10", 16, 200, "last"),
    ("cifarnet", 0, 10, "last"),
    ("cifarnet", 0, 200, "last"),
    ("resnet8", 16, 10, "stage3"),
    ("resnet10", 16, 10, "stage4"),
    ("cifarnet", 0, 10, "stage3"),
)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--data", default="cifar10", help="whose test images are judged, or 'random'")
    arguments.add_argument("--images", type=whole(1, 10000000), default=2000)
    arguments.add_argument("--batch_size", type=whole(1, 65536), default=500)
    arguments.add_argument("--calls", type=whole(1, 1000000), default=5)
    arguments.add_argument(
        "--in_turn", type=whole(1, 1000000), default=3, help="requests timed one after another; scaled to all"
    )
    flags = arguments.parse_args()
    test = Split(*cli.random_images(flags.images, 32, 10)) if flags.data == "random" else load_dataset(flags.data).test
    indices, shape = np.arange(min(flags.images, len(test.labels))), test.images.shape[1:]
    rows = []
    for name, width, classes, layers in CASES:
        model = cli.random_model(name, classes, shape, width=width)
        gates = gates_of(model.apply, model.variables, noise_images(shape))
        collected = random_statistics(gates, classes, jax.random.key(1))
        given = {"data": None, "statistics": collected, "rng": jax.random.key(0)}
        unlearn = partial(Osp(layers=layers).unlearn, model, **given)

        def plain(model: Model) -> Any:
            return predict_logits(model, test, indices, flags.batch_size).argmax(-1)

        def together(requests: int, model=model, unlearn=unlearn) -> Any:
            unlearned = [unlearn((c,)) for c in range(requests)]
            return evaluate_all(model, unlearned, test, indices, batch_size=flags.batch_size)

        timed = min(flags.in_turn, classes)
        wall, processor = cli.in_turn(
            {
                "plain": partial(plain, model),
                "one": partial(together, 1),
                "all": partial(together, classes),
                "in turn": lambda unlearn=unlearn, plain=plain, timed=timed: [
                    plain(unlearn((c,))) for c in range(timed)
                ],
            },
            flags.calls,
        )
        rows.append(
            {
                "network": name,
                "width": width or linen_module(model).width,
                "classes": classes,
                "masked": ", ".join(chosen_groups(gates, layers)),
                "images": len(indices),
                "data": flags.data,
                "plain s": wall["plain"],
                "all s": wall["all"],
                "in turn s": wall["in turn"] * classes / timed,
                "ratio": wall["all"] / wall["plain"],
                "cpu ratio": processor["all"] / processor["plain"],
                "ms a request": 1e3 * (processor["all"] - processor["one"]) / (classes - 1),
            }
        )
        cli.report(rows, flags.json)  # each time: a run that is stopped leaves what it has


if __name__ == "__main__":
    cli.run(main)
