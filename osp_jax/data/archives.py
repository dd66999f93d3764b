"""Reads the official archives of CIFAR-10, CIFAR-100 and Tiny ImageNet without TensorFlow.

CIFAR is read from its binary version; the Python version consists of pickles, which are never loaded. Nothing is
unpacked to disk, and memory use is limited to the size of the data set.
"""

import gzip
import io
import itertools
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from osp_jax.data.class_names import check_class_names
from osp_jax.runtime.errors import InputError

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    NotImplementedError,  # a compression or encryption that zipfile does not support
)
_TEXT = 8 << 20  # largest text member, in bytes
_CIFAR_IMAGES = 60_000
_TINY_IMAGES, _TINY_MEMBERS = 256 << 10, 200_000  # largest image, in bytes, and most members
_TINY_TOTAL = 1 << 30  # most bytes of all images


@dataclass(frozen=True)
class Archive:
    """The official archive of a data set, and the TFDS version built from it."""

    url: str
    sha256: str | None
    size: int  # bytes
    version: str

    @property
    def file(self) -> str:
        """The published file name."""
        return self.url.rpartition("/")[2]


OFFICIAL: dict[str, Archive] = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        size=170_052_171,
        version="3.0.2",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        size=168_513_733,
        version="3.0.2",
    ),
    "tiny_imagenet": Archive(  # unknown to TFDS
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        size=248_100_043,
        version="1.0.0",
    ),
}


@dataclass(frozen=True)
class Content:
    """The content of an archive, in the form that a TFDS builder needs."""

    image: dict  # the arguments of TFDS's image feature
    names: dict[str, list[str]]  # the class names of each label feature
    splits: dict[str, Iterable[tuple[int | str, dict]]]  # the shuffling key of TFDS, and the example


def read_archive(name: str, path: Path) -> Content:
    """Reads and checks the whole archive, so that no error occurs once writing has begun."""
    try:
        return _read_tiny_imagenet(path) if name == "tiny_imagenet" else _read_cifar(path, *_CIFAR[name])
    except _DAMAGE as error:
        reason = ascii(str(error.args[0] if error.args else type(error).__name__)[:200])[1:-1]
        url = OFFICIAL[name].url
        raise InputError(f"{path} is not a whole {OFFICIAL[name].file} ({reason}); get it from {url}") from error


# Folder, files of each split, and the label features in byte order, with the file and number of names.
_CIFAR = {
    "cifar10": (
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        {"label": ("batches.meta.txt", 10)},
    ),
    "cifar100": (
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)},
    ),
}


def _read_cifar(path: Path, folder: str, splits: dict[str, list[str]], labels: dict[str, tuple[str, int]]) -> Content:
    members, most = {}, _CIFAR_IMAGES * (len(labels) + 3 * 32 * 32)
    with (
        gzip.open(path) as unzipped,
        tarfile.open(fileobj=(bounded := _Bounded(unzipped, 2 * most)), mode="r|", bufsize=1 << 20) as tar,
    ):
        for member in tar:
            parent, file = _place(member.name)
            if parent != folder or member.isdir():
                continue
            if not member.isreg():
                raise ValueError(f"{folder}/{file} is a link or a device, not a file")
            if file in members:
                raise ValueError(f"{folder}/{file} is there twice")
            if member.size > (_TEXT if file.endswith((".txt", ".html")) else most):
                raise ValueError(f"{folder}/{file} has {member.size} bytes, more than the data set can hold")
            members[file] = tar.extractfile(member).read()
        while bounded.read(1 << 20):  # tarfile stops before the end, where gzip stores its checksum
            pass
    for file in itertools.chain(*splits.values(), (file for file, _ in labels.values())):
        if file not in members:
            raise ValueError(f"{folder}/{file} is missing")
    names = {label: members[file].decode().split() for label, (file, _) in labels.items()}
    counts = [count for _, count in labels.values()]
    if [len(classes) for classes in names.values()] != counts:
        raise ValueError("wrong number of class names")
    for classes in names.values():
        check_class_names(classes)

    def records(file: str) -> np.ndarray:
        size = len(counts) + 3 * 32 * 32
        if not members[file] or len(members[file]) % size:
            raise ValueError(f"{folder}/{file} is cut off")
        array = np.frombuffer(members[file], np.uint8).reshape(-1, size)
        if (array[:, : len(counts)] >= counts).any():
            raise ValueError(f"{folder}/{file} has labels out of range")
        return array

    def examples(split: str, array: np.ndarray) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(array):
            image = record[len(counts) :].reshape(3, 32, 32).transpose(1, 2, 0)  # c h w -> h w c
            values = dict(zip(labels, record[: len(counts)].tolist(), strict=True))
            yield index, {"id": f"{split}_{index:05d}", "image": _png(image), **values}

    arrays = {split: np.concatenate([records(file) for file in files]) for split, files in splits.items()}
    return Content({"shape": (32, 32, 3)}, names, {split: examples(split, array) for split, array in arrays.items()})


class _Bounded:
    """A stream that raises an error after `most` bytes, since a small archive may unpack to any size."""

    def __init__(self, stream: BinaryIO, most: int):
        self._stream, self._left = stream, most

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise ValueError("it unpacks to more than the data set can hold")
        return block


def _place(member: str) -> tuple[str, str]:
    """(folder, file) of a member's name.

    Raises:
      ValueError: the name leads out of the archive.
    """
    if member.startswith("/") or "\\" in member or ".." in member.split("/"):
        raise ValueError(f"the name of the member {member[:80]} leads out of the archive")
    parent, _, file = posixpath.normpath(member).rpartition("/")
    return parent, file


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _read_tiny_imagenet(path: Path) -> Content:
    root = "tiny-imagenet-200"
    pattern = re.compile(rf"{root}/train/(\w+)/images/([^/]+\.JPEG)")
    with zipfile.ZipFile(path) as archive:
        sizes = _zip_members(archive)

        def read(member: str, most: int = _TEXT) -> bytes:
            if sizes[member] > most:
                raise ValueError(f"{member} has {sizes[member]} bytes, more than the data set can hold")
            return archive.read(member)

        names = sorted(read(f"{root}/wnids.txt").decode().split())
        check_class_names(names)
        rows = [line.split("\t") for line in read(f"{root}/val/val_annotations.txt").decode().split("\n") if line]
        members = {  # split -> (class, file, member)
            "train": [(match[1], match[2], match[0]) for match in map(pattern.fullmatch, sizes) if match],
            "validation": [(wnid, file, f"{root}/val/images/{file}") for file, wnid, *_ in rows],
        }
        wanted = [member for images in members.values() for _, _, member in images]
        if len(set(wanted)) < len(wanted):
            raise ValueError("val/val_annotations.txt names an image twice")
        if sum(sizes[member] for member in wanted) > _TINY_TOTAL:
            raise ValueError("it unpacks to more than the data set can hold")
        splits = {split: [] for split in members}
        for split, images in members.items():
            if not images or {wnid for wnid, *_ in images} != set(names):
                raise ValueError(f"its {split} images are not of the classes in wnids.txt")
            for wnid, file, member in images:
                image = read(member, _TINY_IMAGES)
                example = {"id": f"{wnid}/{file}", "image": image, "label": names.index(wnid)}
                splits[split].append((example["id"], example))
    shapes = {_jpeg_shape(*pair) for examples in splits.values() for pair in examples}
    if len(shapes) > 1:
        raise ValueError(f"its images differ in size: {sorted(shapes)}")
    return Content({"shape": shapes.pop(), "encoding_format": "jpeg"}, {"label": names}, splits)


def _zip_members(archive: zipfile.ZipFile) -> dict[str, int]:
    """The unpacked size of each member in bytes; zipfile reads no more of it.

    Raises:
      ValueError: a name leads out of the archive or occurs twice, or a member is encrypted.
    """
    infos, sizes = archive.infolist(), {}
    if len(infos) > _TINY_MEMBERS:
        raise ValueError(f"it has {len(infos)} members, more than the data set can hold")
    for info in infos:
        _place(info.filename)
        if info.filename in sizes:
            raise ValueError(f"{info.filename} is there twice")
        if info.flag_bits & 1:
            raise ValueError(f"{info.filename} is encrypted")
        sizes[info.filename] = info.file_size
    return sizes


def _jpeg_shape(key: str, example: dict) -> tuple[int, int, int]:
    try:
        width, height = Image.open(io.BytesIO(example["image"]), formats=["JPEG"]).size
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{key} is not a JPEG image") from None
    return height, width, 3  # including greyscale images, which TFDS decodes to three equal channels
