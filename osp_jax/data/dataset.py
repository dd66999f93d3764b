"""A data set in memory, or readable like one: two splits of images and labels, and the class names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from osp_jax.data.kinds import is_text, stored_dtype
from osp_jax.data.stored import StoredImages
from osp_jax.runtime.errors import InputError, shown


@dataclass(frozen=True)
class Split:
    """`images`: uint8 `(n, height, width, channels)`, in memory or readable like it, or texts: token ids, uint16
    `(n, length)`; `labels`: int32 `(n,)`."""

    images: np.ndarray | StoredImages
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Raises `InputError` for arrays with the wrong type or shape."""
        images, labels = self.images, self.labels
        if (images.dtype, len(images.shape)) not in ((np.uint8, 4), (np.uint16, 2)):
            found = f"{images.dtype} of shape {tuple(images.shape)}"
            raise InputError(f"images are {found}; give uint8 (n, height, width, channels) with values from 0 to 255")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            found = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise InputError(f"labels are {found}; give a class number for each of the {len(images)} images")
        if len(labels) and labels.min() < 0:
            raise InputError(f"a label is {labels.min()}; give class numbers from 0 on")

    @classmethod
    def empty(cls, shape: Sequence[int]) -> "Split":
        """A split without inputs, of inputs of this shape, without the batch."""
        return cls(np.zeros((0, *shape), stored_dtype(shape)), np.zeros(0, np.int32))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and the class names by class number.

    `variant` describes the data, for example 'cifar10 3.0.2 (JPEG, 32x32)'. `test_held_out`: whether `data.validation`
    split the test images off the training images; training then holds out no others. `tokenizer`: the tokenizer of
    texts, as `tokenizers` writes it (JSON); empty for images.
    """

    name: str
    variant: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    test_held_out: bool = False
    tokenizer: str = ""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)`, or `(length,)` for texts."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def in_class_order(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Renumbers the classes of `dataset` in the order of `names`; returns it unchanged if `names` is empty.

    Raises:
      InputError: `names` are not the names of its classes, each once.
    """
    if not names or tuple(names) == dataset.class_names:
        return dataset
    known = set(dataset.class_names)
    if unknown := [name for name in names if name not in known]:
        some = ", ".join(dataset.class_names[:12]) + (", ..." if dataset.num_classes > 12 else "")
        raise InputError(
            f"data.class_names has {shown(unknown[0])}, which is no class of {dataset.name}; it has: {some}"
        )
    number = {name: place for place, name in enumerate(names)}
    if missing := [name for name in dataset.class_names if name not in number]:
        raise InputError(
            f"data.class_names lacks {shown(missing[0])}, a class of {dataset.name}; give each of its "
            f"{dataset.num_classes} classes once, in the order of their numbers"
        )
    numbers = np.array([number[name] for name in dataset.class_names], np.int32)
    train, test = (Split(split.images, numbers[split.labels]) for split in (dataset.train, dataset.test))
    return replace(dataset, class_names=tuple(names), train=train, test=test)


def describe_dataset(dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The part of `config.json` that describes the data, so that later commands need not read them."""
    about = {
        "name": dataset.name,
        "variant": dataset.variant,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "num_train": len(dataset.train.labels),
        "num_test": len(dataset.test.labels),
        "mean": list(mean),
        "std": list(std),
    }
    if is_text(dataset.image_shape):
        about["tokenizer"] = hashlib.sha256(dataset.tokenizer.encode()).hexdigest()
    return about
