"""Gradient steps on any loss over prepared batches: what every gradient-based unlearning method is made of.

A method says which loss, which batches and which learning rates; the step, its compilation and the choice between a
scan and a Python loop are here and in `epoch.py`. Compiled programs are kept by loss and optimiser, so a second request
runs at once: a loss has to be the same function object each time (make it in a cached function of its settings).

A loss sees the variables of a model in two trees of the same structure: `params`, what it has gradients for, and
`rest`, for example running statistics; each has None in place of the leaves of the other.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.data.draws import host_generator
from osp_jax.model import Model
from osp_jax.runtime.distributed import everywhere, place
from osp_jax.training.epoch import RunEpoch, make_epoch
from osp_jax.training.state import TrainState, is_kernel
from osp_jax.training.step import Step
from osp_jax.trees import combine, leaves_by_path, partition

Loss = Callable[..., tuple[jax.Array, Any]]
TrainApply = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
_DROPOUT = 0x64726F70  # the key of a step is for its augmentation; this purpose is folded in for `train_apply`


@dataclasses.dataclass(frozen=True)
class Forward:
    """The forward pass of a loss, `(params, rest, images, key) -> (logits, new rest)`, equal where its fields are.

    `function` is the `train_apply` of a model if `train`, else its `apply`, which leaves `rest` as it is. Make it with
    `in_train_mode` or `in_eval_mode`.
    """

    function: Callable[..., Any]
    train: bool

    def __call__(self, params: Any, rest: Any, images: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        """`images`: normalised `(batch, h, w, c)`; `key`: of the step."""
        if self.train:
            return train_logits(self.function, params, rest, images, key)
        return self.function(combine(params, rest), images), rest


def in_train_mode(model: Model) -> Forward:
    """The forward pass in train mode; its `rest` has new running statistics."""
    return Forward(model.train_apply, True)


def in_eval_mode(model: Model) -> Forward:
    """The forward pass in eval mode."""
    return Forward(model.apply, False)


def train_logits(
    train_apply: TrainApply, params: Any, rest: Any, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, Any]:
    """(logits, new rest) of normalised images `(batch, h, w, c)` in train mode; `key` is that of the step."""
    logits, variables = train_apply(combine(params, rest), images, jax.random.fold_in(key, _DROPOUT))
    new = jax.tree.map(lambda p, leaf: leaf if p is None else None, params, variables, is_leaf=lambda p: p is None)
    return logits, new


def split_variables(model: Model) -> tuple[Any, Any]:
    """(params, rest) of `model.variables`: the floating-point leaves that are parameters, and all others."""
    floats = {p for p, leaf in leaves_by_path(model.variables).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return partition(model.variables, lambda path: path in floats and model.is_parameter(path))


class Optimiser(NamedTuple):
    """`name`: 'sgd' or 'adam'; the momentum (Nesterov's if `nesterov`) is of 'sgd'; the decay is on kernels only."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0


def descend(
    loss: Loss,
    model: Model,
    batches: Mapping[str, np.ndarray],
    rates: np.ndarray,
    rng: jax.Array,
    *,
    optimiser: Optimiser,
    arguments: tuple[Any, ...] = (),
    mask: Any = None,
) -> Any:
    """The variables of `model` after one gradient step a batch.

    Args:
      loss: `(params, rest, batch, key, *arguments) -> (scalar, new rest)`, with `params` and `rest` as
        `split_variables` gives them; `batch` has the entries of `batches` without their first axis.
      batches: by name `(steps, ...)`, for example indices `(steps, batch)`.
      rates: learning rates, float `(steps,)`.
      arguments: pytrees that stay the same over the steps: images, labels, a teacher's variables.
      mask: factors on every change of the parameters (decay included), a pytree with the structure of `params`: where
        it is 0 nothing changes; None: all change.
    """
    given = {"optimiser": optimiser, "arguments": arguments, "mask": mask}
    return combine(*descend_from(loss, *split_variables(model), batches, rates, rng, **given))


def descend_from(
    loss: Loss,
    params: Any,
    rest: Any,
    batches: Mapping[str, np.ndarray],
    rates: np.ndarray,
    rng: jax.Array,
    **given: Any,
) -> tuple[Any, Any]:
    """(params, rest) after the steps of `descend`, from any two pytrees; the other arguments are those of `descend`."""
    ((_, after),) = _trajectory(loss, params, rest, batches, rates, rng, stops=[len(rates)], **given)
    return after


def trajectory(
    loss: Loss, model: Model, batches: Mapping[str, np.ndarray], rates: np.ndarray, rng: jax.Array, **given: Any
) -> Iterator[tuple[int, Any]]:
    """`(steps done, variables)` at each of the ascending `stops: Sequence[int]` on the way that `descend` goes, of
    which it has the other arguments. Variables hold until the next ones are asked for, which are made of their
    memory."""
    for stop, trees in _trajectory(loss, *split_variables(model), batches, rates, rng, **given):
        yield stop, combine(*trees)


def _trajectory(
    loss: Loss,
    params: Any,
    rest: Any,
    batches: Mapping[str, np.ndarray],
    rates: np.ndarray,
    rng: jax.Array,
    *,
    stops: Sequence[int],
    optimiser: Optimiser,
    arguments: tuple[Any, ...] = (),
    mask: Any = None,
) -> Iterator[tuple[int, tuple[Any, Any]]]:
    order, done = {**batches, "rate": np.asarray(rates, np.float32)}, 0
    arguments, state = place(arguments), None
    for stop in stops:
        piece = {name: values[done:stop] for name, values in order.items()}
        if stop > done:
            state = state or start_of(optimiser)(params, rest)
            state, _ = epoch_of(loss, optimiser)(state, piece, rng, mask, arguments)
        yield stop, (state.params, state.batch_stats) if state else (params, rest)
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
def start_of(optimiser: Optimiser) -> Callable[[Any, Any], TrainState]:
    """`(params, rest) -> state`, with memory of its own, which a step may take; `rest` is in the place of the running
    statistics. Jitted."""

    def start(params: Any, rest: Any) -> TrainState:
        params, rest = jax.tree.map(jnp.copy, (params, rest))
        return TrainState(jnp.zeros((), jnp.int32), params, rest, _transform(optimiser).init(params))

    return jax.jit(start)


@lru_cache(maxsize=256)
def epoch_of(loss: Loss, optimiser: Optimiser) -> RunEpoch:
    """The steps of `gradient_step`, as `make_epoch` runs them."""
    return make_epoch(gradient_step(loss, optimiser))


def gradient_step(loss: Loss, optimiser: Optimiser) -> Step:
    """The pure step `(state, batch, rng, mask, arguments) -> (state, {'loss'})`, with the arguments of `descend`.

    `batch` has, beside the entries of `batches`, the learning rate as `rate`.
    """
    transform = _transform(optimiser)

    def step(state: TrainState, batch: Any, rng: jax.Array, mask: Any, arguments: Any) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(rng, state.step)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, rest), grads = gradient(state.params, state.batch_stats, batch, key, *arguments)
        directions, opt_state = transform.update(grads, state.opt_state, state.params)
        if mask is not None:
            directions = jax.tree.map(jnp.multiply, directions, mask)
        params = jax.tree.map(lambda p, d: p - batch["rate"] * d, state.params, directions)
        return everywhere((TrainState(state.step + 1, params, rest, opt_state), {"loss": value}))

    return step
