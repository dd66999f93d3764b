"""The pure training step: takes the state and a batch, or its indices in a data set; returns the state and metrics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.runtime.distributed import everywhere
from osp_jax.training.loss import FeaturePenalty, training_loss
from osp_jax.training.state import TrainState

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_batch_step(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    *,
    preparation: Preparation,
    penalty: Callable[[Any], jax.Array],
    feature_penalty: FeaturePenalty | None = None,
    label_smoothing: float,
) -> Step:
    """A step `(state, (images, labels), key, penalty_weight) -> (state, metrics)` on one batch.

    `images` are uint8 `(batch, h, w, c)`, `labels` `(batch,)`. The random numbers of a step depend only on `key` and
    the number of the step.
    """
    loss = partial(
        training_loss,
        model=model,
        penalty=penalty,
        feature_penalty=feature_penalty,
        label_smoothing=label_smoothing,
    )

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array], key: jax.Array, penalty_weight: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        images, labels = batch
        images = preparation.augmented(images, jax.random.fold_in(key, state.step))
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, (batch_stats, metrics)), grads = gradient(state.params, state.batch_stats, images, labels, penalty_weight)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return everywhere((TrainState(state.step + 1, params, batch_stats, opt_state), metrics))

    return step


def is_traceable(step: Step) -> bool:
    """Whether JAX can compile the step; a step with PyTorch's gradient is called directly."""
    return not getattr(step, "untraceable", False)


def gathering(batch_step: Step) -> Step:
    """The step `(state, batch_indices, images, labels, *others)`, which gathers its batch from the whole set.

    `images` uint8 `(n, h, w, c)` and `labels` `(n,)` are the set, on the device; `batch_indices` int32 `(batch,)`.
    """

    def step(state: TrainState, batch_indices: jax.Array, images: jax.Array, labels: jax.Array, *others: Any) -> Any:
        return batch_step(state, (images[batch_indices], labels[batch_indices]), *others)

    step.untraceable = not is_traceable(batch_step)
    return step
