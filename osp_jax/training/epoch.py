"""One pass over the training images: a scan on accelerators, a Python loop over the same step on CPUs.

Batches from an iterator always use the Python loop.

On CPUs a convolution with gradients inside `lax.scan` runs about twenty times slower than outside
(github.com/jax-ml/jax/issues/12868). This module is the only one that chooses.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from osp_jax.runtime.distributed import on_cpu
from osp_jax.training.state import TrainState
from osp_jax.training.step import Step, is_traceable

RunEpoch = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_epoch(step: Step, *, scan: bool | None = None) -> RunEpoch:
    """`run(state, order, *arguments, on_step, stop) -> (state, metrics)`; `state` is donated.

    `order`, an array or a pytree of arrays `(steps, ...)`, holds the data of each step, usually image indices;
    `metrics` has one array `(steps,)` by name, and is empty for an epoch without steps. `on_step(metrics)` is called
    after each step of the Python loop, and once with the stacked metrics after a scan. The loop ends early if `stop()`
    returns true after a step; a scan does not. `scan` overrides the choice by device.
    """
    if not is_traceable(step) or (on_cpu() if scan is None else not scan):
        loop = make_loop(step)

        def run(state: TrainState, order: Any, *arguments: Any, **hooks: Callable) -> Any:
            return loop(state, _rows(jax.tree.map(np.asarray, order)), *arguments, **hooks)

        return run

    def scanned(state: TrainState, order: Any, *arguments: Any) -> Any:
        return jax.lax.scan(lambda carry, batch: step(carry, batch, *arguments), state, order)

    one_epoch = jax.jit(scanned, donate_argnums=0)

    def run(
        state: TrainState, order: Any, *arguments: Any, on_step: Callable = _ignore, stop: Callable = _never
    ) -> Any:
        state, metrics = one_epoch(state, order, *arguments)
        on_step(metrics)
        return state, metrics

    return run


def make_loop(step: Step) -> RunEpoch:
    """Like `make_epoch` without a scan, over any iterable of step data, which it consumes step by step."""
    one_step = jax.jit(step, donate_argnums=0) if is_traceable(step) else step

    def run(
        state: TrainState, batches: Iterable[Any], *arguments: Any, on_step: Callable = _ignore, stop: Callable = _never
    ) -> Any:
        history = []
        for batch in batches:
            state, metrics = one_step(state, batch, *arguments)
            history.append(metrics)
            on_step(metrics)
            # One pending step keeps the device busy; more would keep their batches in its memory.
            jax.block_until_ready(history[-2:-1])
            if stop():
                break
        # On the host: on the device, every number of steps would be compiled separately.
        return state, jax.tree.map(lambda *values: np.stack(values), *jax.device_get(history)) if history else {}

    return run


def _rows(order: Any) -> Iterator[Any]:
    for i in range(len(jax.tree.leaves(order)[0])):
        yield jax.tree.map(lambda leaf: leaf[i], order)  # noqa: B023


def _ignore(metrics: Any) -> None:
    """The default `on_step`."""


def _never() -> bool:
    return False


def run_parts(
    run: RunEpoch,
    state: TrainState,
    parts: Sequence[Any],
    *arguments: Any,
    first: int = 0,
    on_step: Callable = _ignore,
    stop: Callable = _never,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An epoch whose last batch may be smaller: calls `run`, as `make_epoch` returns it, for each of `parts`.

    Each part `(steps, batch)` has its own program. The epoch starts at its step `first`.
    """
    histories = []
    for order in parts:
        begin, first = min(first, len(order)), max(first - len(order), 0)
        if begin < len(order) or len(parts) == 1:
            state, metrics = run(state, order[begin:], *arguments, on_step=on_step, stop=stop)
            histories.append(metrics)
            if len(next(iter(metrics.values()), ())) < len(order) - begin:
                break  # stopped
    if len(histories) < 2:
        return state, histories[0] if histories else {}
    return state, jax.tree.map(lambda *values: np.concatenate(jax.device_get(values)), *histories)


def epoch_order(indices: jax.Array, key: jax.Array, epoch: int, batch_size: int) -> jax.Array:
    """A random order of `indices` as int32 `(steps, batch_size)`; the rest is dropped."""
    return epoch_parts(indices, key, epoch, batch_size)[0]


def epoch_parts(
    indices: jax.Array, key: jax.Array, epoch: int, batch_size: int, last_batch: str = "drop"
) -> list[jax.Array]:
    """A random order of `indices` in parts int32 `(steps, batch)`: the full batches, then, if `last_batch` is 'keep',
    one smaller batch with the rest, if any."""
    shuffled = jax.random.permutation(jax.random.fold_in(key, epoch), indices)
    return in_batches(shuffled, batch_size, last_batch)


def in_batches(order: Any, batch_size: int, last_batch: str = "drop") -> list[Any]:
    """An array `(n,)`, in its order, as parts like those of `epoch_parts`."""
    full = len(order) // batch_size * batch_size
    parts = [order[:full].reshape(full // batch_size, batch_size)]
    return [*parts, order[full:][None]] if last_batch == "keep" and full < len(order) else parts


def batch_sizes(count: int, batch_size: int, last_batch: str = "drop") -> np.ndarray:
    """The number of images in each batch of an epoch over `count`, int `(steps,)`."""
    full, left = divmod(count, batch_size)
    return np.array([batch_size] * full + [left] * (last_batch == "keep" and left > 0), int)
