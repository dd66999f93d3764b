"""Checks the description of a prepared TFDS folder before TFDS uses it.

TFDS trusts `dataset_info.json` and `features.json`: it imports the classes and opens the files that they name, and
assumes their record counts. This module reads both as plain JSON and compares them with the files of the folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osp_jax.data.class_names import check_class_names
from osp_jax.data.paths import check_readable
from osp_jax.runtime.errors import InputError

_LARGEST_JSON = 64 << 20  # bytes
_MOST_RECORDS = 1 << 31  # indices are int32
_MOST_CLASSES = 1 << 17  # WordNet has 82,115 nouns
_SIDE = 1 << 16  # pixels; the most that JPEG and WebP support
_TEMPLATE = re.compile(r"[\w.-]*(\{\w+\}[\w.-]*)+")


@dataclass(frozen=True)
class FolderInfo:
    """`channels` is 1 or 3; a side of `size` (height, width) is None if it varies; `splits` counts records."""

    file_format: str
    version: str
    class_names: tuple[str, ...]
    size: tuple[int | None, int | None]
    channels: int
    splits: dict[str, int]


def read_format(folder: Path) -> str:
    """The file format of the records, such as 'array_record'.

    Raises:
      ValueError: `dataset_info.json` is missing or damaged; the message gives the reason.
    """
    file_format = _field(_read_object(folder / "dataset_info.json"), "fileFormat", str, "tfrecord")
    if not re.fullmatch(r"[a-z_]{1,40}", file_format):
        raise ValueError(f"dataset_info.json: fileFormat is {file_format[:40]!a}")
    return file_format


def read_folder(folder: Path, name: str) -> FolderInfo:
    """The description of the image classification data set `name` in `folder`.

    Raises:
      ValueError: a file is missing or damaged, or the folder holds another data set or version.
      InputError: a file is not readable, the data set is not for image classification, or its images are not uint8 with
        1 or 3 channels.
    """
    info, features = _read_object(folder / "dataset_info.json"), _read_object(folder / "features.json")
    dataset, version = _field(info, "name", str), _field(info, "version", str)
    if dataset != re.split("[/:]", name)[0]:
        raise ValueError(f"dataset_info.json is of {dataset!a}, not of {name}")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII) or version != folder.name:
        raise ValueError(f"dataset_info.json is of version {version[:20]!a}, but the folder of {folder.name!a}")
    _check_classes(features)
    features = _field(_field(features, "featuresDict", dict), "features", dict)
    for feature, kind in (("image", "image"), ("label", "classLabel")):
        if feature not in features or kind not in _field(features, feature, dict):
            raise InputError(f"{name} is not an image classification set: it has no {feature!r}; choose another")
    image = _field(features["image"], "image", dict)
    if (dtype := _field(image, "dtype", str, "uint8")) != "uint8":
        raise InputError(f"{name} has images of {dtype[:20]}; only uint8 images can be read, choose another data set")
    *size, channels = _dimensions(_field(_field(image, "shape", dict, {}), "dimensions", list, []))
    if channels not in (1, 3, None):
        raise InputError(f"{name} has images of {channels} channels; only 1 or 3 can be read, choose another data set")
    splits = {}
    for split in _field(info, "splits", list):
        if not isinstance(split, dict):
            raise ValueError("dataset_info.json: an entry of 'splits' is not an object")
        if (key := _field(split, "name", str)) in splits:
            raise ValueError(f"dataset_info.json names the split {key[:20]!a} twice")
        template = _field(split, "filepathTemplate", str, "{DATASET}")
        if template and not _TEMPLATE.fullmatch(template):
            raise ValueError(f"dataset_info.json: filepathTemplate {template[:80]!a} is no name of a file")
        splits[key] = sum(_count(length, "shardLengths") for length in _field(split, "shardLengths", list, []))
        if splits[key] >= _MOST_RECORDS:
            raise ValueError(f"dataset_info.json counts {splits[key]} records in {key[:20]!a}")
    return FolderInfo(
        file_format=read_format(folder),
        version=version,
        class_names=_class_names(folder, _count(_field(features["label"], "classLabel", dict).get("numClasses"))),
        size=tuple(size),
        channels=channels or 3,
        splits=splits,
    )


def _read_object(path: Path) -> dict[str, Any]:
    content = _read(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def _read(path: Path) -> str:
    if not path.is_file():  # a pipe would block
        raise ValueError(f"{path.name} is {'not a file' if path.exists() else 'missing'}")
    check_readable(path)
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path.name} has {path.stat().st_size >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text") from error


def _field(content: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = content.get(name, default)
    if not isinstance(value, kind):
        what = "is missing" if value is None else f"is not of type {kind.__name__}"
        raise ValueError(f"dataset_info.json or features.json: {name!r} {what}")
    return value


def _count(value: Any, what: str = "numClasses") -> int:
    """A JSON number; TFDS writes 64-bit numbers as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
        raise ValueError(f"dataset_info.json or features.json: {what} is {str(value)[:40]!a}")
    return value


def _dimensions(values: list[Any]) -> list[int | None]:
    """Height, width and channels; None, stored as -1, if images differ."""
    if not values:
        return [None, None, None]
    sides = [None if str(value) == "-1" else _count(value, "a dimension of the images") for value in values]
    if len(sides) != 3 or not all(side is None or 0 < side < _SIDE for side in sides):
        raise ValueError(f"features.json: the shape of the images is {str(values)[:80]}")
    return sides


def _check_classes(content: dict[str, Any]) -> None:
    """Raises `ValueError` unless all classes are those of TFDS, since TFDS imports them."""
    open_ = [content]
    while open_:
        content = open_.pop()
        if isinstance(content, dict):
            name = content.get("pythonClassName", "tensorflow_datasets.")
            if not str(name).startswith("tensorflow_datasets."):
                raise ValueError(f"features.json names the class {str(name)[:80]!a}, which is not of TFDS")
        if isinstance(content, (dict, list)):
            open_ += content.values() if isinstance(content, dict) else content


def _class_names(folder: Path, count: int) -> tuple[str, ...]:
    """The names in `label.labels.txt`, one per line; without it the numbers, as in TFDS."""
    path = folder / "label.labels.txt"
    if count > _MOST_CLASSES:
        raise ValueError(f"features.json counts {count} classes")
    if not path.exists():
        return tuple(str(number) for number in range(count))
    names = tuple(name.strip() for name in _read(path).split("\n") if name.strip())
    if len(names) != count:
        raise ValueError(f"{path.name} holds {len(names)} class names, but features.json says {count}")
    try:
        check_class_names(names)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return names
