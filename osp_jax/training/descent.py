"""Gradient steps on any loss over prepared batches: what every gradient-based unlearning method is made of.

A method says which loss, which batches and which learning rates; the step, its compilation and the choice between a
scan and a Python loop are here and in `epoch.py`. Compiled programs are kept by loss and optimiser, so a second request
runs at once: a loss has to be the same function object each time (make it in a cached function of its settings).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.data.draws import host_generator
from osp_jax.runtime.distributed import everywhere, place
from osp_jax.training.epoch import RunEpoch, make_epoch
from osp_jax.training.state import TrainState, create_state, is_kernel

Loss = Callable[..., tuple[jax.Array, Any]]


class Optimiser(NamedTuple):
    """`name`: 'sgd' or 'adam'; the momentum (Nesterov's if `nesterov`) is of 'sgd'; the decay is on kernels only."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0


def descend(
    loss: Loss,
    variables: dict[str, Any],
    batches: Mapping[str, np.ndarray],
    rates: np.ndarray,
    rng: jax.Array,
    *,
    optimiser: Optimiser,
    arguments: tuple[Any, ...] = (),
    mask: Any = None,
) -> dict[str, Any]:
    """Variables after one gradient step a batch.

    Args:
      loss: `(params, batch_stats, batch, key, *arguments) -> (scalar, new batch_stats)`; `batch` has the entries of
        `batches` without their first axis.
      batches: by name `(steps, ...)`, for example indices `(steps, batch)`.
      rates: learning rates, float `(steps,)`.
      arguments: pytrees that stay the same over the steps: images, labels, a teacher's variables.
      mask: factors on every change of the parameters (decay included), a pytree with the structure of `params`: where
        it is 0 nothing changes; None: all change.
    """
    given = {"stops": [len(rates)], "optimiser": optimiser, "arguments": arguments, "mask": mask}
    ((_, after),) = trajectory(loss, variables, batches, rates, rng, **given)
    return after


def trajectory(
    loss: Loss,
    variables: dict[str, Any],
    batches: Mapping[str, np.ndarray],
    rates: np.ndarray,
    rng: jax.Array,
    *,
    stops: Sequence[int],
    optimiser: Optimiser,
    arguments: tuple[Any, ...] = (),
    mask: Any = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(steps done, variables)` at each of the ascending `stops` on the way that `descend` goes, of which it has the
    other arguments. Variables hold until the next ones are asked for, which are made of their memory."""
    order, done = {**batches, "rate": np.asarray(rates, np.float32)}, 0
    arguments, state = place(arguments), None
    for stop in stops:
        piece = {name: values[done:stop] for name, values in order.items()}
        if stop > done:
            state = state or _start(optimiser)(variables)
            state, _ = _epoch(loss, optimiser)(state, piece, rng, mask, arguments)
        yield stop, state.variables if state else variables
        done = stop


def epoch_batches(indices: np.ndarray, batch_size: int, epochs: int, rng: jax.Array) -> np.ndarray:
    """`epochs` random orders of `indices` in full batches, int32 `(steps, batch)`; the rest of an epoch is left out.

    Where there are fewer indices than `batch_size`, a batch is the largest power of two that they fill: so classes of
    about the same size share a compiled program.
    """
    batch_size = batch_of(indices, batch_size)
    steps = len(indices) // batch_size
    draw = host_generator(rng)
    orders = [draw.permutation(indices)[: steps * batch_size].reshape(steps, batch_size) for _ in range(epochs)]
    return np.concatenate([np.zeros((0, batch_size), np.int32), *orders]).astype(np.int32)


def cycled_batches(indices: np.ndarray, batch_size: int, steps: int, rng: jax.Array) -> np.ndarray:
    """As many epochs over `indices` as fill `steps` batches, int32 `(steps, batch)`."""
    each = len(indices) // batch_of(indices, batch_size)
    return epoch_batches(indices, batch_size, -(-steps // each), rng)[:steps]


def batch_of(indices: np.ndarray, batch_size: int) -> int:
    """The size of the batches that `epoch_batches` makes of `indices`."""
    return batch_size if len(indices) >= batch_size else 2 ** (len(indices).bit_length() - 1)


def cosine_rates(peak: float, steps: int) -> np.ndarray:
    """From `peak` at the first step along half a cosine towards 0 after the last, float64 `(steps,)`."""
    return peak * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1)))


def _transform(optimiser: Optimiser) -> optax.GradientTransformation:
    """Gradient to direction; the learning rate is applied by the step, so that it may change without a new program."""
    first = {
        "sgd": optax.trace(decay=optimiser.momentum, nesterov=optimiser.nesterov),
        "adam": optax.scale_by_adam(),
    }[optimiser.name]
    return optax.chain(optax.add_decayed_weights(optimiser.weight_decay, mask=is_kernel), first)


@lru_cache(maxsize=16)
def _start(optimiser: Optimiser) -> Callable[[dict[str, Any]], TrainState]:
    """Makes a state with memory of its own, which a step may take."""
    return jax.jit(lambda variables: create_state(jax.tree.map(jnp.copy, variables), _transform(optimiser)))


@lru_cache(maxsize=256)
def _epoch(loss: Loss, optimiser: Optimiser) -> RunEpoch:
    transform = _transform(optimiser)

    def step(state: TrainState, batch: Any, rng: jax.Array, mask: Any, arguments: Any) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(rng, state.step)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, batch_stats), grads = gradient(state.params, state.batch_stats, batch, key, *arguments)
        directions, opt_state = transform.update(grads, state.opt_state, state.params)
        if mask is not None:
            directions = jax.tree.map(jnp.multiply, directions, mask)
        params = jax.tree.map(lambda p, d: p - batch["rate"] * d, state.params, directions)
        return everywhere((TrainState(state.step + 1, params, batch_stats, opt_state), {"loss": value}))

    return make_epoch(step)
