"""Gradient descent on any loss over prepared batches, shared by all gradient-based unlearning methods.

A method defines the loss, the batches and the learning rates; this module and `epoch.py` contain the step, its
compilation and the choice between a scan and a Python loop. Compiled programs are cached by loss and optimiser, so that
a second request does not recompile; a loss must therefore be the same function object each time (create it in a cached
function of its settings).

A loss gets the variables of a model in two trees of the same structure: `params`, which have gradients, and `rest`, for
example running statistics; each has None in place of the leaves of the other.
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
_DROPOUT = 0x64726F70  # folded into the key of a step for `train_apply`; the key itself is for the augmentation


@dataclasses.dataclass(frozen=True)
class Forward:
    """The forward pass of a loss, `(params, rest, images, key) -> (logits, new rest)`; equal if its fields are equal.

    `function` is the `train_apply` of a model if `train`, else its `apply`, which does not change `rest`. Create it
    with `in_train_mode` or `in_eval_mode`.
    """

    function: Callable[..., Any]
    train: bool

    def __call__(self, params: Any, rest: Any, images: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        """`images`: normalised `(batch, h, w, c)`; `key`: of the step."""
        if self.train:
            return train_logits(self.function, params, rest, images, key)
        return self.function(combine(params, rest), images), rest


def in_train_mode(model: Model) -> Forward:
    """The forward pass in train mode, which updates running statistics in `rest`."""
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
    """`name`: 'sgd' or 'adam'; momentum (Nesterov's if `nesterov`) applies to 'sgd'; weight decay to kernels only."""

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
    """Returns the variables of `model` after one gradient step per batch.

    Args:
      loss: `(params, rest, batch, key, *arguments) -> (scalar, new rest)`, with `params` and `rest` as in
        `split_variables`; `batch` has the entries of `batches` without their first axis.
      batches: `(steps, ...)` by name, for example indices `(steps, batch)`.
      rates: learning rates, float `(steps,)`.
      arguments: constant pytrees: images, labels, a teacher's variables.
      mask: factors on every update of the parameters (including weight decay), a pytree like `params`; a parameter with
        factor 0 does not change. None: all change.
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
    """(params, rest) after the steps of `descend`, from any two pytrees; the other arguments as in `descend`."""
    ((_, after),) = _trajectory(loss, params, rest, batches, rates, rng, stops=[len(rates)], **given)
    return after


def trajectory(
    loss: Loss, model: Model, batches: Mapping[str, np.ndarray], rates: np.ndarray, rng: jax.Array, **given: Any
) -> Iterator[tuple[int, Any]]:
    """Yields `(steps done, variables)` of `descend` at each of the ascending `stops: Sequence[int]`.

    The other arguments are those of `descend`. Variables are valid until the next ones are requested, which reuse their
    memory.
    """
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
    """`epochs` random orders of `indices` in full batches, int32 `(steps, batch)`; the rest of an epoch is dropped.

    If there are fewer indices than `batch_size`, the batch size is the largest power of two that they fill, so that
    classes of similar size share a compiled program.
    """
    batch_size = batch_of(indices, batch_size)
    steps = len(indices) // batch_size
    draw = host_generator(rng)
    orders = [draw.permutation(indices)[: steps * batch_size].reshape(steps, batch_size) for _ in range(epochs)]
    return np.concatenate([np.zeros((0, batch_size), np.int32), *orders]).astype(np.int32)


def cycled_batches(indices: np.ndarray, batch_size: int, steps: int, rng: jax.Array) -> np.ndarray:
    """Enough epochs over `indices` to fill `steps` batches, int32 `(steps, batch)`."""
    each = len(indices) // batch_of(indices, batch_size)
    return epoch_batches(indices, batch_size, -(-steps // each), rng)[:steps]


def batch_of(indices: np.ndarray, batch_size: int) -> int:
    """The batch size of `epoch_batches` for these `indices`."""
    return batch_size if len(indices) >= batch_size else 2 ** (len(indices).bit_length() - 1)


def cosine_rates(peak: float, steps: int) -> np.ndarray:
    """Half a cosine from `peak` at the first step towards 0 after the last, float64 `(steps,)`."""
    return peak * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1)))


def _transform(optimiser: Optimiser) -> optax.GradientTransformation:
    """Maps gradients to directions; the step applies the learning rate, which can thus change without recompiling."""
    first = {
        "sgd": optax.trace(decay=optimiser.momentum, nesterov=optimiser.nesterov),
        "adam": optax.scale_by_adam(),
    }[optimiser.name]
    return optax.chain(optax.add_decayed_weights(optimiser.weight_decay, mask=is_kernel), first)


@lru_cache(maxsize=16)
def start_of(optimiser: Optimiser) -> Callable[[Any, Any], TrainState]:
    """Jitted `(params, rest) -> state`, in new memory, which a step may donate; `rest` takes the place of the running
    statistics."""

    def start(params: Any, rest: Any) -> TrainState:
        params, rest = jax.tree.map(jnp.copy, (params, rest))
        return TrainState(jnp.zeros((), jnp.int32), params, rest, _transform(optimiser).init(params))

    return jax.jit(start)


@lru_cache(maxsize=256)
def epoch_of(loss: Loss, optimiser: Optimiser) -> RunEpoch:
    """The steps of `gradient_step`, run by `make_epoch`."""
    return make_epoch(gradient_step(loss, optimiser))


def gradient_step(loss: Loss, optimiser: Optimiser) -> Step:
    """The pure step `(state, batch, rng, mask, arguments) -> (state, {'loss'})`, with the arguments of `descend`.

    `batch` has the entries of `batches`, and the learning rate as `rate`.
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
