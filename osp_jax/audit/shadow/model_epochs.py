"""One epoch of many models of one recipe: together, in turn, or one per device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from osp_jax.data.sources import Split
from osp_jax.runtime.distributed import device_count, make_mesh, on_cpu, using
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.training.epoch import make_epoch
from osp_jax.training.state import TrainState
from osp_jax.training.step import Step

# (states, orders, step keys, penalty weight) -> states, and one array (N,) per metric.
RunEpochs = Callable[..., tuple[TrainState, dict[str, np.ndarray]]]


def choose_way(number: int) -> str:
    """The fastest way to train `number` models here, according to `benchmarks/shadows.py`.

    One per device if there are several. On a CPU, which is one device, one after another: XLA turns convolutions over
    stacked kernels into grouped ones, which are slow there.
    """
    if _models_at_a_time(number) > 1:
        return "a model a device"
    return "in turn" if on_cpu() else "together"


def _models_at_a_time(number: int) -> int:
    """The largest number of devices that divides `number`, so that none is idle."""
    return max(n for n in range(1, device_count() + 1) if number % n == 0)


def epochs_of_all(way: str, step: Step, pool: Split, number: int) -> RunEpochs:
    """`run(states, orders, step_keys, penalty_weight) -> (states, metrics)`: one epoch of all models.

    `states` is stacked, and donated; `orders` int32 `(N, steps, batch)`; `metrics` float32 `(N,)` by name, the means
    over the steps.

    Raises:
      InputError: an unknown way, or devices that do not support it.
    """
    if way not in WAYS:
        raise unknown("way to train shadow models", way, WAYS)
    return WAYS[way](step, pool, number)


def _together(step: Step, pool: Split, number: int) -> RunEpochs:
    """One step of all models, vmapped over their stacked states."""
    images, labels = jnp.asarray(pool.images), jnp.asarray(pool.labels)
    run_epoch = make_epoch(jax.vmap(step, in_axes=(0, 0, None, None, 0, None)))

    def run(states: TrainState, orders: np.ndarray, keys: jax.Array, weight: jax.Array) -> Any:
        # The epoch donates its input, whose memory host arrays might share.
        states = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), states)
        states, history = run_epoch(states, orders.swapaxes(0, 1), images, labels, keys, weight)
        return states, {name: np.asarray(values).mean(0) for name, values in history.items()}  # steps N -> N

    return run


def _in_turn(step: Step, pool: Split, number: int) -> RunEpochs:
    """The epochs of the models one after another, by the same compiled step."""
    images, labels = jnp.asarray(pool.images), jnp.asarray(pool.labels)
    run_epoch = make_epoch(step)

    def run(states: TrainState, orders: np.ndarray, keys: jax.Array, weight: jax.Array) -> Any:
        ends, means = [], []
        for i in range(number):
            state = jax.tree.map(lambda leaf: jnp.array(leaf[i]), states)  # noqa: B023
            state, history = run_epoch(state, orders[i], images, labels, keys[i], weight)
            ends.append(jax.tree.map(np.asarray, state))
            means.append({name: np.asarray(values).mean() for name, values in history.items()})
        return stacked(ends), stacked(means)

    return run


def _a_model_a_device(step: Step, pool: Split, number: int) -> RunEpochs:
    """One model on each of as many devices as divide their number, without communication."""
    devices = _models_at_a_time(number)
    if devices < 2:
        raise InputError(
            f"{number} shadow models cannot be divided over {device_count()} device(s); train a number with a divisor "
            "between two and the number of devices, or choose another way"
        )
    mesh = make_mesh(model=devices, devices=jax.devices()[:devices])
    everywhere, each = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("model"))
    images, labels = jax.device_put((pool.images, pool.labels), everywhere)

    def step_here(state: TrainState, batch_indices: Any, images: Any, labels: Any, key: Any, weight: Any) -> Any:
        state, batch_indices, key = jax.tree.map(lambda leaf: leaf[0], (state, batch_indices, key))  # 1 ... -> ...
        return jax.tree.map(lambda leaf: leaf[None], step(state, batch_indices, images, labels, key, weight))

    split, whole = PartitionSpec("model"), PartitionSpec()
    specs = {"in_specs": (split, split, whole, whole, split, whole), "out_specs": split}
    # Unchecked: a scan inside the step (in the kernel gradient) starts from zeros, which belong to no device.
    run_epoch = make_epoch(jax.shard_map(step_here, mesh=mesh, check_vma=False, **specs))

    def run(states: TrainState, orders: np.ndarray, keys: jax.Array, weight: jax.Array) -> Any:
        ends, means = [], []
        for first in range(0, number, devices):
            here = slice(first, first + devices)
            group = jax.device_put(jax.tree.map(lambda leaf: np.array(leaf[here]), states), each)  # noqa: B023
            given = orders[here].swapaxes(0, 1), images, labels, jax.device_put(keys[here], each)
            with using(mesh):
                group, history = run_epoch(group, *given, jax.device_put(np.asarray(weight), everywhere))
            ends.append(jax.tree.map(np.asarray, group))
            means.append({name: np.asarray(values).mean(0) for name, values in history.items()})
        return tuple(jax.tree.map(lambda *parts: np.concatenate(parts), *found) for found in (ends, means))

    return run


WAYS: dict[str, Callable[[Step, Split, int], RunEpochs]] = {
    "together": _together,
    "in turn": _in_turn,
    "a model a device": _a_model_a_device,
}


def stacked(trees: Sequence[Any]) -> Any:
    """The trees along a new leading axis, on the host, without compiling a program."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
