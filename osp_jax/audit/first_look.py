"""Checks that an imported network performs well on its images, and suggests a likely cause if it does not.

Likely causes are a different normalisation, a different order of classes, and channels in blue-green-red order. Each
reduces the accuracy, so the check tries likely changes.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from osp_jax.audit.accuracy import confusion_matrix
from osp_jax.data.augment import channel_moments
from osp_jax.data.sources import Split
from osp_jax.data.splits import per_class_sample
from osp_jax.forward import predict_logits
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError

_ENOUGH = 0.75  # accuracy that needs no check
_SAMPLE = 300  # images to try changes on
_GAIN, _ORDER_GAIN = 0.06, 0.2  # gain in accuracy that makes a change worth reporting

_USUAL = {
    "": ((0.0,), (1.0,)),
    " (images from 0 to 255)": ((0.0,), (1 / 255,)),
    " (images from -1 to 1)": ((0.5,), (0.5,)),
    " (ImageNet)": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    " (CIFAR-10)": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


class FirstLook(NamedTuple):
    """The accuracy on `images` test images, and a warning; None if there is none."""

    accuracy: float
    images: int
    warning: str | None


def first_look(model: Model, split: Split, indices: np.ndarray) -> FirstLook:
    """Evaluates a network on the images `indices` `(n,)` of a split.

    Raises:
      InputError: there are no images, or logits are not finite.
    """
    if not len(indices):
        raise InputError("there is no test image of the classes that the network knows; give other data")
    logits = predict_logits(model, split, indices)
    if broken := int(np.count_nonzero(~np.isfinite(logits).all(-1))):
        raise InputError(
            f"the logits of {broken} of {len(indices)} test images are not finite; check --mean and --std, and whether "
            "the weights are those of the trained network"
        )
    labels = split.labels[indices]
    accuracy = float((logits.argmax(-1) == labels).mean())
    return FirstLook(accuracy, len(indices), _warning(model, split, indices, logits.argmax(-1), accuracy))


def _warning(model: Model, split: Split, indices: np.ndarray, predicted: np.ndarray, accuracy: float) -> str | None:
    if accuracy >= _ENOUGH:
        return None
    if found := _other_order(model, split.labels[indices], predicted, accuracy):
        return f"the network's classes seem to be in another order than those of the data: {found}"
    if found := _other_input(model, split, indices):
        return f"the network seems to want other images: {found}"
    chance = 1 / (model.num_classes - len(model.forgotten))
    if accuracy > chance + 0.1 * (1 - chance):
        return None
    return (
        f"that is near chance ({chance:.1%}): check --mean and --std, the order of the classes (--class_names), "
        "whether the network takes red, green, blue or blue, green, red, and whether its weights are trained"
    )


def _other_order(model: Model, labels: np.ndarray, predicted: np.ndarray, accuracy: float) -> str | None:
    """The order of classes with the highest accuracy, if that is much higher."""
    classes, outputs = linear_sum_assignment(confusion_matrix(predicted, labels, model.num_classes), maximize=True)
    numbers = dict(zip(outputs.tolist(), classes.tolist(), strict=True))  # by output of the network
    best = float((np.vectorize(numbers.get)(predicted) == labels).mean())
    if best < accuracy + _ORDER_GAIN:
        return None
    names = ",".join(model.class_names[numbers[output]] for output in range(model.num_classes))
    return f"with --class_names={names} it is {best:.1%}"


def _other_input(model: Model, split: Split, indices: np.ndarray) -> str | None:
    """The change of the images with the highest accuracy on a sample, if that is higher."""
    chosen = np.sort(per_class_sample(split.labels, indices, _SAMPLE, seed=0)[:_SAMPLE])
    images, labels = np.asarray(split.images[chosen]), split.labels[chosen]
    channels, own = images.shape[-1], channel_moments(images)
    tried = {
        f"--mean={_text(mean)} --std={_text(std)}{note}": (images, mean, std)
        for note, (mean, std) in {**_USUAL, " (of these images)": own}.items()
        if len(mean) in (1, channels)
    }
    if channels == 3:
        reverse = "images[..., ::-1] in the network (blue, green, red)"
        tried[reverse] = np.ascontiguousarray(images[..., ::-1]), model.mean, model.std

    def accuracy(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> float:
        mean, std = (tuple(values) * (channels // len(values)) for values in (mean, std))
        logits = predict_logits(model.replace(mean=mean, std=std), Split(images, labels), np.arange(len(labels)))
        return float((logits.argmax(-1) == labels).mean())

    found = {words: accuracy(*given) for words, given in tried.items()}
    best = max(found, key=found.__getitem__)
    now = accuracy(images, model.mean, model.std)
    if found[best] < now + _GAIN:
        return None
    return f"with {best} it is {found[best]:.1%} instead of {now:.1%} on {len(labels)} test images"


def _text(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.6g}" for value in values)
