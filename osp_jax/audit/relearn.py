"""Relearning: how fast, and from how few images, does the model learn the class again?

The model is trained on a few images of every class until its accuracy on forgotten test images reaches 50%, and 95%, of
the original's. A model that never saw the class learns it too: the anamnesis index (Chundawat et al., IEEE TIFS 2023,
arXiv 2201.05629) is the number of steps divided by that of the retrained model; 1 is ideal. The paper gives neither
the learning rate, the batch size nor the mode of the norms: they are ours (`Settings`); running statistics do not
change.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.audit.measure import Measure, half_width, measure, never
from osp_jax.audit.subject import Images, Subject, recognised, stages_of
from osp_jax.data.augment import Preparation, normalise
from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.data import of_each_class
from osp_jax.methods.parts.head import head_leaves
from osp_jax.training.descent import Loss, Optimiser, trajectory
from osp_jax.training.loss import cross_entropy
from osp_jax.trees import combine, partition

TARGETS = {"50": 0.5, "95": 0.95}
LAYERS = ("all_layers", "head_only")
_STOPS = (0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400)


class Settings(NamedTuple):
    """`counts`: images of each class; `steps`: the most steps; each setting is repeated for `draws` draws."""

    counts: tuple[int, ...] = (1, 5, 50, 500)
    layers: tuple[str, ...] = LAYERS
    steps: int = 200
    draws: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.9
    batch_size: int = 64


def relearning(
    subject: Subject,
    images: Images,
    original_accuracy: float,
    settings: Settings,
    seed: int = 0,
    *,
    until: float = max(TARGETS.values()),
) -> tuple[dict[str, Measure], dict[str, dict[str, list[float]]]]:
    """Steps to each target by layers and count, the fewest sufficient images, and the curves of the first draw.

    Args:
      original_accuracy: accuracy of the original on the forgotten test images; the targets are shares of it.
      until: the share of it at which a run ends; higher targets are not reached.
    """
    measures, curves = {}, {}
    for layers in settings.layers:
        reached: dict[str, list[int]] = {target: [] for target in TARGETS}
        for count in settings.counts:
            runs = []
            for draw in range(settings.draws):
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), draw), count)
                goal = until * original_accuracy
                runs.append(list(_until(_accuracies(subject, images, layers, count, settings, key), goal)))
            name = f"{count}_image{'s' if count > 1 else ''}"
            steps, accuracy = zip(*runs[0], strict=True)
            curves[f"{layers}_{name}"] = {"steps": list(steps), "accuracy": list(accuracy)}
            for target, share in TARGETS.items():
                found = [_first(run, share * original_accuracy) for run in runs]
                summary = steps_measure(found, settings.steps)
                measures[f"{layers}_{name}_to_{target}_percent"] = summary
                reached[target] += [count] if summary["value"] is not None else []
        for target, counts in reached.items():
            fewest = measure(min(counts), leak="low") if counts else never(max(settings.counts), leak="low")
            measures[f"{layers}_fewest_images_to_{target}_percent"] = fewest
    return measures, curves


def steps_measure(found: Sequence[int | None], limit: int) -> Measure:
    """The median number of steps over draws; `never` if half of the draws or more did not reach the target."""
    known = [steps for steps in found if steps is not None]
    if 2 * len(known) <= len(found):
        return never(limit, len(found), leak="low")
    ends = None
    if len(known) == len(found) > 1:
        half = half_width(known)
        ends = max(0.0, np.mean(known) - half), np.mean(known) + half
    return measure(np.median([limit if steps is None else steps for steps in found]), ends, len(found), leak="low")


def anamnesis(mine: Mapping[str, Measure], retrained: Mapping[str, Measure]) -> dict[str, Measure]:
    """The anamnesis index of each setting with all layers, at 95% of the original's accuracy.

    It is 0 if the model reaches it without training; `never` if the retrained model reaches it and the model does not;
    without a value if the retrained model does not reach it.
    """
    found = {}
    for name, its in retrained.items():
        if name.startswith("all_layers_") and name.endswith("_to_95_percent") and "fewest" not in name:
            own, label = mine[name], f"anamnesis_{name.removeprefix('all_layers_').removesuffix('_to_95_percent')}"
            if its["value"] is None or (its["value"] == 0 and own["value"] != 0):
                found[label] = measure(None, leak="low")
            elif own["value"] is None:
                found[label] = never(own["never"], leak="low")
            else:
                found[label] = measure(own["value"] / its["value"] if its["value"] else 1.0, leak="low")
    return found


def _accuracies(
    subject: Subject, images: Images, layers: str, count: int, settings: Settings, key: jax.Array
) -> Iterator[tuple[int, float]]:
    """Yields `(steps, accuracy on forgotten test images)`."""
    draw_key, order_key, step_key = jax.random.split(key, 3)
    split = images.dataset.train
    batches = _batches(of_each_class(split.labels, images.train, count, draw_key), settings, order_key)
    leaves = head_leaves(stages_of(subject.model, images.dataset.image_shape).head) if layers == "head_only" else None
    for steps, variables in trajectory(
        frozen_norm_loss(subject, leaves),
        subject.model,
        {"images": split.images[batches], "labels": split.labels[batches]},
        np.full(settings.steps, settings.learning_rate),
        step_key,
        stops=[*(s for s in _STOPS if s < settings.steps), settings.steps],
        optimiser=Optimiser(momentum=settings.momentum),
        arguments=subject.preparation.moments(),
    ):
        yield steps, float(recognised(subject.model.replace(variables=variables), images).mean())


def _batches(indices: np.ndarray, settings: Settings, key: jax.Array) -> np.ndarray:
    """Consecutive random orders of `indices` in batches of one size for any count, int32 `(steps, batch)`."""
    draw, wanted = host_generator(key), settings.steps * settings.batch_size
    orders = [draw.permutation(indices) for _ in range(-(-wanted // len(indices)))]
    return np.concatenate(orders)[:wanted].reshape(settings.steps, settings.batch_size)


def _until(points: Iterator[tuple[int, float]], goal: float) -> Iterator[tuple[int, float]]:
    for steps, accuracy in points:
        yield steps, accuracy
        if accuracy >= goal:
            return


def _first(points: Sequence[tuple[int, float]], goal: float) -> int | None:
    return next((steps for steps, accuracy in points if accuracy >= goal), None)


def frozen_norm_loss(subject: Subject, leaves: Collection[str] | None = None) -> Loss:
    """Cross-entropy of a batch of augmented images; norms use their running statistics, which do not change.

    The mean and standard deviation of the normalisation are arguments, so that models with different ones share a
    program.

    Args:
      leaves: paths of the only parameters to differentiate; None: all. Other gradients are not computed.
    """
    augmentation = subject.preparation._replace(mean=(), std=())
    return _frozen_norm_loss(subject.model.apply, augmentation, None if leaves is None else frozenset(leaves))


@lru_cache(maxsize=16)
def _frozen_norm_loss(
    apply: Callable[[Any, jax.Array], jax.Array], augmentation: Preparation, leaves: frozenset[str] | None
) -> Loss:
    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, mean: jax.Array, std: jax.Array) -> Any:
        inputs = augmentation.changed(normalise(batch["images"], mean, std), key, mean, std)
        if leaves is not None:
            learned, held = partition(params, leaves.__contains__)
            params = combine(learned, jax.lax.stop_gradient(held))
        return cross_entropy(apply(combine(params, rest), inputs), batch["labels"]), rest

    return loss
