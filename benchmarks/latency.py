"""Time from request to parameters of `osp`, by masked layers, compared with the memory floor.

python -m benchmarks.latency [--model=resnet18] [--json=FILE]

Statistics are in memory, as after training; every call is a different request, and none recompiles. The floor is the
time to read and write the scores and masked parameters once, at the memory bandwidth measured in the same process. The
dispatch is the time in which JAX calls a trivial program with the same arguments and results. Weights and statistics
are random: the time does not depend on them.
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cli
from osp_jax.methods.osp import Osp
from osp_jax.methods.parts.groups import chosen_groups, forget_vector, masked_paths
from osp_jax.networks import count_parameters
from osp_jax.program.gates import Gates, gates_of, noise_images
from osp_jax.runtime.arguments import whole
from osp_jax.statistics import ClassStatistics, Moments, Statistics
from osp_jax.trees import changed_paths, pruned


def random_statistics(gates: Gates, num_classes: int, key: jax.Array) -> Statistics:
    """Statistics of the right shapes, with random class means."""

    def layer(channels: int, key: jax.Array) -> ClassStatistics:
        mean, largest = jax.random.uniform(key, (2, num_classes, channels)) * 1000
        return ClassStatistics(jnp.full(num_classes, 1000.0), Moments(mean, mean**2), Moments(largest, largest**2))

    layers = {g.name: layer(g.channels, jax.random.fold_in(key, i)) for i, g in enumerate(gates.groups)}
    return Statistics(layers, jnp.zeros((0, 1)), jnp.zeros(0, jnp.int32), gates)


def bandwidth() -> float:
    """Bytes per second of an in-place pass over 256 MB: read once, written once, without allocation."""
    arrays = [jnp.ones(64 * 2**20, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    times = cli.seconds_per_call(lambda: arrays.append(add(arrays.pop())) or arrays, 10)
    return 2 * arrays[0].nbytes / min(times)


@partial(jax.jit, keep_unused=True)
def next_to_nothing(masked: Any, layers: Any, vector: jax.Array) -> Any:
    """As many results as `masked` has leaves, each a single number."""
    del layers
    return jax.tree.map(lambda leaf: leaf.ravel()[0] + vector[0], masked)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--model", type=cli.network, default="resnet18")
    arguments.add_argument("--classes", type=whole(2, 1000000), default=10)
    arguments.add_argument("--calls", type=whole(1, 1000000), default=500)
    flags = arguments.parse_args()
    model = cli.random_model(flags.model, flags.classes, (32, 32, 3))
    variables, gates = model.variables, gates_of(model.apply, model.variables, noise_images((32, 32, 3)))
    statistics = random_statistics(gates, flags.classes, jax.random.key(1))
    bytes_per_second = bandwidth()

    rng = jax.random.key(0)
    rows = []
    for layers, erase in (("last", False), ("stage4|bn5", False), ("all", False), ("all", True)):
        method, requests = Osp(layers=layers, erase=erase), iter(range(10**9))

        def request(method: Osp = method, requests=requests) -> Any:
            forget = (next(requests) % flags.classes,)
            return method.unlearn(model, forget, data=None, statistics=statistics, rng=rng).variables

        start = time.perf_counter()
        new = jax.block_until_ready(request())
        cold = time.perf_counter() - start
        median, p99 = cli.median_and_p99(cli.seconds_per_call(request, flags.calls))
        changed = [leaf.nbytes for leaf in pruned(new, changed_paths(variables, new)).values()]
        names = chosen_groups(gates, layers)
        masked = pruned(variables, masked_paths(gates, names, method.place, erase))
        given = masked, {name: statistics.layers[name] for name in names}, forget_vector((0,), statistics)
        dispatch, _ = cli.median_and_p99(cli.seconds_per_call(partial(next_to_nothing, *given), flags.calls))
        read = sum(leaf.nbytes for name in names for leaf in jax.tree.leaves(statistics.layers[name]))
        touched = read + 2 * sum(changed)
        rows.append(
            {
                "layers": layers,
                "erase": erase,
                "channels": sum(g.channels for g in gates.groups if g.name in names),
                "leaves": len(changed),
                "MB touched": touched / 1e6,
                "floor ms": 1e3 * touched / bytes_per_second,
                "dispatch ms": 1e3 * dispatch,
                "warm median ms": 1e3 * median,
                "warm p99 ms": 1e3 * p99,
                "cold ms": 1e3 * cold,
            }
        )
    print(
        f"{flags.model}, {count_parameters(variables):,} parameters; copying runs at {bytes_per_second / 1e9:.1f} GB/s"
    )
    cli.report(rows, flags.json)


if __name__ == "__main__":
    cli.run(main)
