"""Classification data sets by name: digits, TFDS sets, and a user's folder, npz file or text file.

TFDS is read through `data_source`, which does not need TensorFlow. A set that is not prepared is prepared first
(`osp_jax.data.prepare`), with a download if possible.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osp_jax.data.class_names import check_labels, parse_names
from osp_jax.data.dataset import Dataset, Split, in_class_order
from osp_jax.data.folder import FolderInfo, read_folder
from osp_jax.data.image_folder import load_image_folder
from osp_jax.data.memory import image_bytes, require_memory
from osp_jax.data.npz import load_npz
from osp_jax.data.paths import check_data_dir, check_name, check_readable, user_data, user_path
from osp_jax.data.stored import StoredImages, cut, image_of, read_labels, readable, record_of
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.settings import Data, check, completed
from osp_jax.runtime.system_errors import system_errors

_DIGITS, _DIGITS_TEST = 1797, 360
_AT_A_TIME = 64  # consecutive images per thread


def default_dir() -> Path:
    """`TFDS_DATA_DIR`, or the default folder of TFDS."""
    return user_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR or the home folder")


def load_data(settings: Mapping[str, Any], tokenizer: str = "") -> Dataset:
    """Loads the data set that the `data` section of a config names; missing settings have their defaults.

    `name` is 'digits', the name of a TFDS set, 'folder:PATH', 'npz:FILE' or 'text:FILE'; `dir`, if not empty, is the
    TFDS folder, or replaces PATH or FILE.

    Args:
      tokenizer: tokenizer of a workdir, as in `Dataset.tokenizer`; empty: one is trained on the texts.

    Raises:
      InputError: as `load_dataset`, `load_image_folder`, `load_npz` and `load_texts`, or the class names are not those
        of the data.
    """
    whole = completed({**settings}, Data)
    asked = {name: whole[name] for name in Data.model_fields}
    check(asked, Data, "data")
    names, size, channels = parse_names(asked["class_names"]), asked["image_size"], asked["channels"]
    if place := user_data(asked["name"], asked["dir"]):
        kind, path, title = place
        if kind == "text":
            from osp_jax.text.dataset import load_texts

            return in_class_order(load_texts(path, title, asked, tokenizer), names)
        given = {"image_size": size, "channels": channels, "validation": asked["validation"]}
        if kind == "npz":
            return load_npz(path, title, class_names=names, stream=asked["stream"], **given)
        dataset = load_image_folder(path, title, stream=asked["stream"], **given)
    else:
        dataset = load_dataset(asked["name"], asked["dir"], size, asked["stream"], channels)
    return in_class_order(dataset, names)


def load_dataset(
    name: str, data_dir: str = "", image_size: int = 0, stream: bool = False, channels: int = 0
) -> Dataset:
    """Loads the digits or a TFDS set into memory; with `stream`, only its labels.

    Args:
      name: 'digits', or the name of a TFDS image classification set.
      data_dir: the TFDS folder; empty for `default_dir()`.
      image_size: resizes the central square to this side, in pixels; 0 keeps the stored images.
      stream: whether to return `StoredImages`, which are read when indexed; needs `image_size`.
      channels: 1 or 3 converts the images; 0 keeps the stored channels.

    Raises:
      InputError: the set is unknown, damaged, or cannot be prepared or streamed; labels are not class numbers; images
        have different shapes or exceed the memory.
    """
    check_name(name)
    if image_size < 0:
        raise InputError(f"data.image_size is {image_size}; give a number of pixels, or 0 to keep the stored size")
    if stream and not image_size:
        raise InputError("data.stream needs images of one size; give data.image_size, such as 224")
    if name == "digits":
        if stream:
            raise InputError("digits come with scikit-learn and have no image files; leave data.stream out")
        return _digits(image_size, channels)
    folder = user_path(data_dir, "data.dir") if data_dir else default_dir()
    check_data_dir(folder)
    return _tfds(name, folder, image_size, stream, channels)


def _digits(image_size: int, channels: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if image_size:
        _require_memory(_DIGITS, image_size, image_size, 1, "digits")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255; n h w -> n h w 1
    if image_size:
        images = np.stack([_resized(image, image_size) for image in images])
    if channels == 3:
        images = np.repeat(images, 3, axis=-1)
    labels = digits.target.astype(np.int32)
    # The set has no official split; this one is fixed, so that figures are comparable.
    split = train_test_split(images, labels, test_size=_DIGITS_TEST, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    return Dataset(
        name="digits",
        variant=f"digits (scikit-learn, {images.shape[1]}x{images.shape[2]})",
        class_names=tuple(str(name) for name in digits.target_names),
        train=Split(train_images, train_labels),
        test=Split(test_images, test_labels),
    )


def _tfds(name: str, data_dir: Path, image_size: int, stream: bool, channels: int) -> Dataset:
    from osp_jax.data.prepare import prepare

    folder = prepare(name, data_dir)
    try:
        with system_errors(folder):
            info = read_folder(folder, name)
            info = replace(info, channels=channels or info.channels)
            train, *others = (
                _open(folder, split, info)
                for split in ("train", "test", "validation")
                if split == "train" or split in info.splits
            )
            found = next(filter(_labelled, others), None)
    except ValueError as error:
        raise InputError(
            f"{folder} is not a complete TFDS folder in array_record format ({error}); "
            f"delete it and prepare it again: python -m osp_jax.data.prepare {name} --dir={data_dir}"
        ) from error
    if found is None:
        raise InputError(f"{name} in {folder} has neither a test nor a validation split; choose another data set")
    if stream and info.file_format != "array_record":
        raise InputError(f"{folder} holds {info.file_format}, which cannot be streamed; prepare {name} as array_record")
    if len(info.class_names) < 2:
        raise InputError(f"{name} in {folder} has {len(info.class_names)} classes; choose a data set of two or more")
    read = _stored if stream else _decoded
    (train_split, format_name), (test_split, _) = (
        read(source, info, image_size, folder, split) for split, source in (train, found)
    )
    if (train_split.labels == train_split.labels[0]).all():
        class_name = info.class_names[train_split.labels[0]]
        raise InputError(f"{folder}: all training images are of one class, {class_name}; choose another data set")
    height, width = train_split.images.shape[1:3]
    return Dataset(
        name=name,
        variant=f"{name} {info.version} ({format_name}, {height}x{width})",
        class_names=info.class_names,
        train=train_split,
        test=test_split,
    )


def _open(folder: Path, split: str, info: FolderInfo) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """(split, its records), images still encoded; verifies the record count of each file.

    Raises:
      ValueError: the split or a file is missing or damaged.
    """
    import tensorflow_datasets as tfds

    if split not in info.splits:
        raise ValueError(f"there is no {split} split")
    try:
        builder = tfds.builder_from_directory(folder)
        files = builder.info.splits[split].file_instructions
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}) if files else ()
    except Exception as error:  # TFDS and protobuf raise their own types for unreadable files
        raise ValueError(f"{split}: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
    if info.file_format == "array_record":
        for file in files:
            _check_records(Path(file.filename), file.examples_in_shard)
    return split, source


def _check_records(path: Path, wanted: int) -> None:
    """Raises `ValueError` unless the file `path` holds `wanted` records."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    check_readable(path)
    try:
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())[:200]}") from error
    if found != wanted:
        raise ValueError(f"{path.name} holds {found} records, but dataset_info.json counts {wanted}")


def _labelled(split: tuple[str, Sequence[Mapping[str, Any]]]) -> bool:
    """False for a test split with secret labels, which TFDS stores as -1."""
    _, source = split
    return not len(source) or record_of(source, 0)["label"] != -1


def _stored(source: Sequence[Any], info: FolderInfo, image_size: int, folder: Path, split: str) -> tuple[Split, str]:
    _require_memory(_AT_A_TIME, image_size, image_size, info.channels, f"{folder}: {split}")
    with readable(folder):
        labels = read_labels(source, folder)
        check_labels(labels, info.class_names, f"{folder}: {split}")
        *_, file_format = image_of(source, 0, info.channels)

    def open_image(index: int) -> Image.Image:
        with readable(folder):
            return image_of(source, index, info.channels)[0]

    images = StoredImages(open_image, len(source), image_size, info.channels, folder)
    return Split(images, labels.astype(np.int32)), file_format


def _decoded(source: Sequence[Any], info: FolderInfo, image_size: int, folder: Path, split: str) -> tuple[Split, str]:
    check_labels(np.zeros(len(source), np.int32), info.class_names, f"{folder}: {split}")  # raises if empty
    with readable(folder), ThreadPoolExecutor() as pool:
        first, _, format_name = image_of(source, 0, info.channels)
        height, width = (
            (image_size, image_size) if image_size else (info.size[0] or first.height, info.size[1] or first.width)
        )
        _require_memory(len(source), height, width, info.channels, f"{folder}: {split}")
        images = np.empty((len(source), height, width, info.channels), np.uint8)

        def read(index: int) -> int:
            image, record, _ = image_of(source, index, info.channels)
            if image_size:
                images[index] = cut(image, image_size)
            elif image.size == (width, height):
                images[index] = np.asarray(image).reshape(height, width, -1)
            else:
                raise InputError(
                    f"{folder}: {split} images differ in shape ({height}x{width}, and {image.height}x{image.width} "
                    f"at image {index}); set config.data.image_size to the pixels a side you want"
                )
            return record["label"]

        labels = np.asarray(list(pool.map(read, range(len(source)))), np.int64)
    check_labels(labels, info.class_names, f"{folder}: {split}")
    return Split(images, labels.astype(np.int32)), format_name


def _require_memory(count: int, height: int, width: int, channels: int, what: str) -> None:
    needed = image_bytes(count, height, width, channels)
    require_memory(
        needed, f"{count} images of {what} at {height}x{width} pixels", "lower data.image_size or use data.stream"
    )


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return cut(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), size)
