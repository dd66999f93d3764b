"""Recovery attacks: can the class be restored without an image of it?

The attacker has the unlearned model and at most retained images. A class that can be restored was hidden, not
forgotten.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.audit.accuracy import predictions_of
from osp_jax.audit.measure import Measure, no_value, share
from osp_jax.audit.relearn import frozen_norm_loss
from osp_jax.audit.subject import Images, Subject, recognised, stages_of
from osp_jax.data.augment import normalise
from osp_jax.data.draws import host_generator
from osp_jax.data.kinds import is_text
from osp_jax.model import Model
from osp_jax.program.kernels import kernel_axes
from osp_jax.runtime.distributed import everywhere
from osp_jax.training.descent import Optimiser, descend, epoch_batches
from osp_jax.trees import edited, leaves_by_path

_UPDATES = 40  # of running statistics: at the usual momentum of 0.9 these keep 1.5% of the old ones


NO_PIXELS = "inversion follows gradients on pixels, and a text has none"


class Settings(NamedTuple):
    """Settings of fine-tuning on retained images (`steps` of `batch_size`) and of the inversion (`inversion_steps` on
    `inversion_images` images of a class); no paper gives them."""

    steps: int = 100
    batch_size: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    inversion_images: int = 32
    inversion_steps: int = 100
    inversion_rate: float = 0.05
    smoothness: float = 1e-3


def recovery(
    subject: Subject, images: Images, judge: Subject, settings: Settings, *, training: bool = True, seed: int = 0
) -> dict[str, Measure]:
    """Accuracy on forgotten test images after each attack.

    Args:
      judge: the original, which decides whether an inverted image shows the class.
      training: whether to include the attacks that train: fine-tuning on retained images and inversion.
    """
    key = jax.random.key(seed)
    attacks = {
        "even_bias": with_even_bias(subject, images.dataset.image_shape),
        "rescaled": rescaled(subject, images.dataset.image_shape),
        "batch_statistics": with_batch_statistics(subject, images),
        "int8": quantised(subject.model, images.dataset.image_shape),
    }
    if training:
        attacks["retained_finetuning"] = fine_tuned(subject, images, settings, jax.random.fold_in(key, 0))
    measures = {
        f"{name}_forget_accuracy": share(recognised(subject.model.replace(variables=after), images), leak="high")
        for name, after in attacks.items()
    }
    if training and is_text(images.dataset.image_shape):
        measures["inversion_recognised"] = no_value(NO_PIXELS, leak="high")
    elif training:
        measures["inversion_recognised"] = inversion(subject, images, judge, settings, jax.random.fold_in(key, 1))
    return measures


def rescaled(subject: Subject, image_shape: tuple[int, int, int]) -> Any:
    """Variables in which channels that stand out as scaled down are scaled up again.

    Every scale of a norm (with its bias) and every row of the head's kernel is raised to at least the median magnitude
    of its layer, unless it is exactly 0; the head's biases become equal.
    """
    head = stages_of(subject.model, image_shape).head
    even = with_even_bias(subject, image_shape)
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(even).items() if subject.model.is_parameter(path)}
    new = {}
    for path, leaf in leaves.items():
        bias = path.removesuffix("scale").removesuffix("weight") + "bias"
        if _is_scale(path, leaf, bias in leaves):
            factor = _to_median(np.abs(leaf))
            new |= {at: leaves[at] * factor for at in (path, bias) if at in leaves}
        elif path == head.kernel:
            new[path] = leaf * _to_median(np.linalg.norm(leaf, axis=head.output_axis, keepdims=True))
    return edited(even, new)


def _is_scale(path: str, leaf: np.ndarray, has_bias: bool) -> bool:
    """Whether a leaf is the scale of a norm: 'scale' in Flax; in PyTorch, a 'weight' of one axis next to a bias."""
    name = path.rpartition("/")[2]
    return name == "scale" or (name.rpartition(".")[2] == "weight" and leaf.ndim == 1 and has_bias)


def with_even_bias(subject: Subject, image_shape: tuple[int, int, int]) -> Any:
    """Variables whose head has the median bias for every class, which undoes attempts to only hide a class."""
    variables, path = subject.model.variables, stages_of(subject.model, image_shape).head.bias
    if path is None:
        return variables
    bias = leaves_by_path(variables)[path]
    return edited(variables, {path: np.full_like(bias, np.median(bias))})


def _to_median(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, np.maximum(np.median(sizes) / np.where(sizes > 0, sizes, 1), 1), 1)


def with_batch_statistics(subject: Subject, images: Images, batch_size: int = 256) -> Any:
    """Variables whose norms recomputed their running statistics on retained training images.

    Unchanged if the model has none, or no train mode that updates them.
    """
    model, after = subject.model, subject.model.variables
    if model.train_apply is None or all(map(model.is_parameter, leaves_by_path(after))):
        return after
    split, retained = images.dataset.train, images.parts["train_retain"]
    size, key = min(batch_size, len(retained)), jax.random.key(0)  # key of dropout, if there is any
    update, moments = _statistics_update(model.train_apply), subject.preparation.moments()
    for number in range(_UPDATES):
        batch = np.roll(retained, -number * size)[:size]
        after = update(after, split.images[batch], *moments, jax.random.fold_in(key, number))
    return after


@lru_cache(maxsize=8)
def _statistics_update(train_apply: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]) -> Any:
    def update(variables: Any, images: jax.Array, mean: jax.Array, std: jax.Array, key: jax.Array) -> Any:
        _, updated = train_apply(variables, normalise(images, mean, std), key)
        return everywhere(updated)

    return jax.jit(update)


def quantised(model: Model, image_shape: tuple[int, int, int]) -> Any:
    """Variables whose kernels are rounded to 8 bits, symmetric, with one scale per output channel.

    A leaf whose output axis is unknown, or the last, has one scale per entry of the last axis.
    """
    layouts = kernel_axes(model.apply, model.variables, image_shape)

    def rounded(path: str, leaf: np.ndarray) -> np.ndarray:
        last = leaf.ndim - 1
        own = layouts[path].outputs if path in layouts else ()
        own = (last,) if not own or last in own else own
        step = np.max(np.abs(leaf), axis=tuple(axis for axis in range(leaf.ndim) if axis not in own), keepdims=True)
        step = step / 127
        return np.where(step > 0, np.round(leaf / np.where(step > 0, step, 1)) * step, leaf)

    leaves = leaves_by_path(model.variables)
    kernels = [path for path, leaf in leaves.items() if model.is_parameter(path) and leaf.ndim > 1]
    return edited(model.variables, {path: rounded(path, np.asarray(leaves[path])) for path in kernels})


def fine_tuned(subject: Subject, images: Images, settings: Settings, key: jax.Array) -> Any:
    """Variables after training on retained images only."""
    order_key, step_key = jax.random.split(key)
    split, retained = images.dataset.train, images.parts["train_retain"]
    size = min(settings.batch_size, len(retained))
    epochs = -(-settings.steps // max(len(retained) // size, 1))
    batches = epoch_batches(retained, size, epochs, order_key)[: settings.steps]
    return descend(
        frozen_norm_loss(subject),
        subject.model,
        {"images": split.images[batches], "labels": split.labels[batches]},
        np.full(len(batches), settings.learning_rate),
        step_key,
        optimiser=Optimiser(momentum=settings.momentum),
        arguments=subject.preparation.moments(),
    )


def inversion(subject: Subject, images: Images, judge: Subject, settings: Settings, key: jax.Array) -> Measure:
    """Optimises noise images into a forgotten class of the model; the share in which the judge recognises the class.

    Adam ascends the margin of the class's logit over the largest other one, minus a penalty on differences of
    neighbouring pixels. A logit that is out of reach gives no useful gradient, and the noise stays noise.
    """
    climb, draw = _climb(subject.model.apply), host_generator(key)
    hits = []
    for number in images.forget:
        noise = draw.normal(size=(settings.inversion_images, *images.dataset.image_shape)).astype(np.float32)
        given = number, settings.inversion_steps, settings.inversion_rate, settings.smoothness
        found = climb(subject.model.variables, noise, *given)
        pixels = np.asarray(found) * np.float32(subject.preparation.std) + np.float32(subject.preparation.mean)
        inputs = (np.clip(pixels, 0, 1) - np.float32(judge.preparation.mean)) / np.float32(judge.preparation.std)
        logits = np.asarray(judge.model.apply(judge.model.variables, inputs))
        hits.append(predictions_of(logits) == number)
    return share(np.concatenate(hits), leak="high")


@lru_cache(maxsize=8)
def _climb(apply: Callable[[Any, jax.Array], jax.Array]) -> Any:
    import optax

    optimiser = optax.scale_by_adam()

    def loss(inputs: jax.Array, variables: Any, number: jax.Array, smoothness: jax.Array) -> jax.Array:
        logits = apply(variables, inputs)
        own = jnp.arange(logits.shape[-1]) == number
        margin = jnp.where(own, logits, 0).sum(-1) - jnp.where(own, -jnp.inf, logits).max(-1)
        rough = sum(jnp.square(jnp.diff(inputs, axis=axis)).sum((1, 2, 3)) for axis in (1, 2))
        return (smoothness * rough - margin).sum()

    @jax.jit
    def step(inputs: jax.Array, state: Any, variables: Any, number: Any, rate: Any, smoothness: Any) -> Any:
        updates, state = optimiser.update(jax.grad(loss)(inputs, variables, number, smoothness), state)
        return inputs - rate * updates, state

    def climb(variables: Any, inputs: np.ndarray, number: int, steps: int, rate: float, smoothness: float) -> jax.Array:
        state = optimiser.init(inputs)
        for _ in range(steps):
            inputs, state = step(inputs, state, variables, number, rate, smoothness)
        return inputs

    return climb
