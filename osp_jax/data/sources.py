"""Image classification sets by name, as uint8 arrays: the digits of scikit-learn, and every set of TFDS.

TFDS is read through `data_source`, which needs no TensorFlow. A set that is not prepared yet is prepared first
(`osp_jax.data.prepare`), downloading where the machine can.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from osp_jax.data.stored import StoredImages, cut, decode, read_labels, readable
from osp_jax.errors import InputError

_DIGITS_TEST = 360


@dataclasses.dataclass(frozen=True)
class Split:
    """`images`: uint8 `(n, height, width, channels)`, in memory or to be read like it; `labels`: int32 `(n,)`."""

    images: np.ndarray | StoredImages
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split, and the names of the classes in the order of their numbers.

    `variant` says what the figures were measured on, for example 'cifar10 3.0.2 (JPEG, 32x32)'.
    """

    name: str
    variant: str
    class_names: tuple[str, ...]
    train: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def default_dir() -> Path:
    """`TFDS_DATA_DIR`, or TFDS's own default folder."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_dataset(name: str, data_dir: str = "", image_size: int = 0, stream: bool = False) -> Dataset:
    """Reads a whole data set into memory, or its labels only, and leaves the images in their files.

    Args:
      name: 'digits', or the name of a TFDS image classification set.
      data_dir: the TFDS folder; empty for `default_dir()`.
      image_size: resizes the square in the middle to this many pixels a side; 0 keeps the images as they are stored.
      stream: gives `StoredImages`, which are read when an index picks them; needs `image_size`.

    Raises:
      InputError: an unknown set, one that cannot be prepared or streamed, or images of differing shapes.
    """
    if image_size < 0:
        raise InputError(f"data.image_size is {image_size}; give a number of pixels, or 0 to keep the stored size")
    if stream and not image_size:
        raise InputError("data.stream needs images of one size; give data.image_size, such as 224")
    if name == "digits":
        if stream:
            raise InputError("digits come with scikit-learn and lie in no files; leave data.stream out")
        return _digits(image_size)
    return _tfds(name, Path(data_dir).expanduser() if data_dir else default_dir(), image_size, stream)


def _digits(image_size: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255; n h w -> n h w 1
    if image_size:
        images = np.stack([_resized(image, image_size) for image in images])
    labels = digits.target.astype(np.int32)
    # The set has no split of its own; this one is fixed, so that figures compare.
    split = train_test_split(images, labels, test_size=_DIGITS_TEST, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    return Dataset(
        name="digits",
        variant=f"digits (scikit-learn, {images.shape[1]}x{images.shape[2]})",
        class_names=tuple(str(name) for name in digits.target_names),
        train=Split(train_images, train_labels),
        test=Split(test_images, test_labels),
    )


def _tfds(name: str, data_dir: Path, image_size: int, stream: bool) -> Dataset:
    import tensorflow_datasets as tfds

    from osp_jax.data.prepare import prepare

    folder = prepare(name, data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
        splits, features = builder.info.splits, builder.info.features
        train, *others = (
            builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            for split in ("train", "test", "validation")
            if split == "train" or split in splits
        )
        test = next(filter(_labelled, others), None)
        if test is None:
            raise InputError(f"{name} in {folder} has neither a test nor a validation split; choose another data set")
        file_format = builder.info.file_format.value
        class_names = tuple(features["label"].names)
        channels = features["image"].shape[-1] or 3
    except KeyError as error:
        raise InputError(f"{name} is not an image classification set: it has no {error}; choose another") from error
    except (OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{folder} is not a complete TFDS folder in array_record format ({str(error).splitlines()[0]}); "
            f"delete it and prepare it again: python -m osp_jax.data.prepare {name} --dir={data_dir}"
        ) from error
    if stream and file_format != "array_record":
        raise InputError(f"{folder} holds {file_format}, which cannot be streamed; prepare {name} as array_record")
    read = _stored if stream else _decoded
    train_split, format_name = read(train, channels, image_size, folder)
    test_split, _ = read(test, channels, image_size, folder)
    height, width = train_split.images.shape[1:3]
    return Dataset(
        name=name,
        variant=f"{name} {builder.version} ({format_name}, {height}x{width})",
        class_names=class_names,
        train=train_split,
        test=test_split,
    )


def _labelled(source: Sequence[Mapping[str, Any]]) -> bool:
    """False of a test split whose labels are kept back, which TFDS gives as -1."""
    return not len(source) or source[0]["label"] >= 0


def _stored(source: Sequence[Any], channels: int, image_size: int, folder: Path) -> tuple[Split, str]:
    with readable(folder):
        _, file_format = decode(source[0]["image"], channels)
    return Split(StoredImages(source, image_size, channels, folder), read_labels(source, folder)), file_format


def _decoded(source: Sequence[Any], channels: int, image_size: int, folder: Path) -> tuple[Split, str]:
    def read(index: int) -> tuple[np.ndarray, int, str]:
        record = source[index]
        image, file_format = decode(record["image"], channels)
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], channels), record["label"], file_format

    with readable(folder), ThreadPoolExecutor() as pool:
        images, labels, formats = zip(*pool.map(read, range(len(source))), strict=True)
    if image_size:
        images = [_resized(image, image_size) for image in images]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise InputError(f"{folder}: images differ in shape; set config.data.image_size to the pixels a side you want")
    return Split(np.stack(images), np.asarray(labels, np.int32)), formats[0]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    return cut(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), size)
