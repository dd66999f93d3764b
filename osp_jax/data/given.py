"""Images and labels in memory, checked where the caller passes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osp_jax.data.kinds import is_text
from osp_jax.data.sources import Dataset, Split
from osp_jax.data.stored import StoredImages
from osp_jax.runtime.errors import InputError, shown


def split_of(images: Any, labels: Any, num_classes: int, what: str = "") -> Split:
    """`images` uint8 `(n, h, w, c)` and `labels` int `(n,)` as a `Split`; arrays of the right type are not copied.

    Args:
      what: which images these are, for errors, such as 'test'.

    Raises:
      InputError: there are none, they have the wrong type or shape, or a label is not a class number.
    """
    what = f"{what} " if what else ""
    if not isinstance(images, StoredImages):
        images = _array(images, f"{what}images", "uint8 (n, height, width, channels)")
    labels = _array(labels, f"{what}labels", "a class number for each image")
    if not len(labels):
        raise InputError(f"there are no {what}images; give some of every class")
    split = Split(images, labels.astype(np.int32) if np.issubdtype(labels.dtype, np.integer) else labels)
    if (largest := split.labels.max()) >= num_classes:
        raise InputError(f"a {what}label is {largest}; give class numbers from 0 to {num_classes - 1}")
    return split


def dataset_of_arrays(data: Any, class_names: Sequence[str]) -> Dataset:
    """A `Dataset` from `(train_images, train_labels, test_images, test_labels)`; returns a `Dataset` unchanged.

    Raises:
      InputError: the number of arrays is wrong, one is unusable, or images or classes are inconsistent.
    """
    names = tuple(class_names)
    if isinstance(data, Dataset):
        if data.class_names != names:
            raise InputError(f"the data have classes {shown(data.class_names)}, the model {shown(names)}; give its own")
        return data
    if not isinstance(data, Sequence) or len(data) != 4:
        given = f"{len(data)} values" if isinstance(data, Sequence) else shown(type(data).__name__)
        raise InputError(f"data are {given}; give (train_images, train_labels, test_images, test_labels), or a Dataset")
    train, test = (split_of(*data[i : i + 2], len(names), what) for i, what in ((0, "train"), (2, "test")))
    shapes = [split.images.shape[1:] for split in (train, test)]
    if shapes[0] != shapes[1]:
        raise InputError(f"train images have shape {shapes[0]} and test images {shapes[1]}; give images of one shape")
    kind = "texts" if is_text(shapes[0]) else "images"
    size = "x".join(str(side) for side in shapes[0][:2])
    return Dataset(f"the given {kind}", f"given {kind} ({size})", names, train, test)


def _array(value: Any, what: str, wanted: str) -> np.ndarray:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise InputError(f"{what} are no array ({' '.join(str(error).split())[:100]}); give {wanted}") from error
    if found.dtype == object or not found.ndim:
        raise InputError(f"{what} are {shown(value)}; give {wanted}")
    return found
