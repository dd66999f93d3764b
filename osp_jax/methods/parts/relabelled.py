"""Descent on forgotten images with labels of other classes and on retained images, for `random-label` and `salun`.

`methods/random_label.py` gives the sources of the defaults.
"""

import dataclasses
from functools import lru_cache
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.importance import filled_batches
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.training.descent import Forward, Loss, Optimiser, descend, in_train_mode
from osp_jax.training.loss import cross_entropy

LABELS = ("retained", "any")


@dataclasses.dataclass(frozen=True)
class Relabelling(Method):
    """Settings of both; "Unlearn-Saliency" is its file Classification/arg_parser.py."""

    trains: ClassVar[bool] = True

    epochs: int = option(10, "passes over all images", low=1, source="Unlearn-Saliency: --unlearn_epochs")
    learning_rate: float = option(
        0.01,
        "learning rate of SGD, constant",
        low=0,
        source="Unlearn-Saliency: --unlearn_lr; its README has 0.013 for random images",
    )
    batch_size: int = option(256, "images in a batch", low=1, source="Unlearn-Saliency: --batch_size")
    momentum: float = option(0.9, "momentum of SGD", low=0, high=1, source="Unlearn-Saliency: --momentum")
    weight_decay: float = option(
        5e-4, "weight decay, on kernels only (ours)", low=0, source="Unlearn-Saliency: --weight_decay"
    )
    labels: str = option(
        "retained",
        "classes that the random labels are drawn from: the retained ones, or 'any' as in RL.py",
        choices=LABELS,
        source="ours; the paper asks for another class than the image's own",
    )
    mixed: bool = option(
        False,
        "mix forgotten and retained images in every batch, as RL.py does for its other data sets",
        source="Unlearn-Saliency: RL.py for CIFAR-10 and SVHN",
    )


def descend_relabelled(
    method: Relabelling,
    model: Model,
    forget: tuple[int, ...],
    data: RequestData,
    classes: np.ndarray,
    rng: jax.Array,
    mask: Any = None,
) -> Model:
    """Trains for `epochs` passes over the relabelled and the retained images.

    Labels are drawn from `classes`; `mask` applies to the updates, as in `descend`.
    """
    order_key, step_key = jax.random.split(rng)
    batches = relabelled_batches(data, forget, classes, method, order_key)
    variables = descend(
        relabelled_loss(in_train_mode(model), data.preparation),
        model,
        batches,
        np.full(len(batches["indices"]), method.learning_rate),
        step_key,
        optimiser=Optimiser(momentum=method.momentum, weight_decay=method.weight_decay),
        arguments=(data.images,),
        mask=mask,
    )
    return model.replace(variables=variables)


def relabelled_batches(
    data: RequestData, forget: tuple[int, ...], classes: np.ndarray, method: Relabelling, rng: jax.Array
) -> dict[str, np.ndarray]:
    """`indices` and `labels` of all epochs, int32 `(steps, batch)`; each epoch draws new labels and a new order.

    Labels are drawn from `classes`.
    """
    draw = host_generator(rng)
    retained, forgotten, labels = data.retain(), data.forget(), np.array(data.labels)
    choices = np.setdiff1d(classes, forget if method.labels == "retained" else ())
    parts = [np.concatenate([forgotten, retained])] if method.mixed else [forgotten, retained]
    epochs = []
    for _ in range(method.epochs):
        labels[forgotten] = draw.choice(choices, len(forgotten))
        orders = [filled_batches(draw.permutation(part), method.batch_size)["indices"] for part in parts]
        epochs += [(order, labels[order]) for order in orders]
    indices, targets = map(np.concatenate, zip(*epochs, strict=True))
    return {"indices": indices, "labels": targets.astype(np.int32)}


@lru_cache(maxsize=16)
def relabelled_loss(forward: Forward, preparation: Preparation) -> Loss:
    """Cross-entropy of a batch of augmented images with the labels in the batch."""

    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array) -> Any:
        inputs = preparation.augmented(images[batch["indices"]], key)
        logits, rest = forward(params, rest, inputs, key)
        return cross_entropy(logits, batch["labels"]), rest

    return loss
