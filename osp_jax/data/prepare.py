"""Prepares data sets without TensorFlow: `python -m osp_jax.data.prepare cifar10 [--archive=FILE] [--dir=DIR]`.

TFDS reads a prepared folder without TensorFlow, but its own builders need it to unpack archives and to encode images.
CIFAR-10, CIFAR-100 and Tiny ImageNet are therefore written here from their official archives, with TFDS's names,
versions, features and record order, so that a folder from here and one from TFDS can stand for each other.
Any other name is left to TFDS, which prepares it if it can do so without TensorFlow.
"""

import argparse
import contextlib
import difflib
import errno
import gzip
import hashlib
import http.client
import io
import itertools
import json
import os
import posixpath
import queue
import re
import shutil
import socket
import sys
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from osp_jax.errors import InputError, exit_on_input_error

_ANSWER_SECONDS = 6  # for name look-up, connection and first answer together
_STALL_SECONDS = 30  # for each block after that
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, KeyError, ValueError)


@dataclass(frozen=True)
class Archive:
    """The official archive of a data set, and the TFDS version that is made of it."""

    url: str
    sha256: str | None
    size: int  # bytes
    version: str

    @property
    def file(self) -> str:
        """The name under which it is published."""
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


def prepare(name: str, data_dir: str | os.PathLike, archive: str | os.PathLike | None = None) -> Path:
    """Prepares a data set for reading with TFDS; does nothing where it is prepared already.

    Args:
      name: One of `OFFICIAL`, or any other name that TFDS knows.
      data_dir: The TFDS data folder. Archives are looked for in, and downloaded to, its `downloads`.
      archive: The official archive, where it lies elsewhere; only for the names in `OFFICIAL`.

    Returns:
      The folder of the prepared data set, `data_dir/name/version`.

    Raises:
      InputError: The name is unknown, the archive is damaged or cannot be had, or there is no room.
      OSError: The disk failed.
    """
    data_dir = Path(data_dir).expanduser()
    if name not in OFFICIAL:
        if archive is not None:
            raise InputError(f"no archive can be given for {name!r}, only for: {', '.join(OFFICIAL)}")
        return _prepare_with_tfds(name, data_dir)
    official = OFFICIAL[name]
    folder = data_dir / name / official.version
    if _is_prepared(folder):
        return folder
    downloads = data_dir / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with _lock(downloads / f".{name}.lock") as locked:
        if _is_prepared(folder):  # by another process, in the meantime
            return folder
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}") if locked else ():
            shutil.rmtree(leftover)  # TFDS's temporary folder; its process was killed
        path = _find(official, downloads, archive)
        _require_space(data_dir, 2 * path.stat().st_size)
        content = _read(name, path)
        if not _is_official(path, official):
            print(f"warning: {path} is not {official.file} as published (its sha256 differs)", file=sys.stderr)
        _write(name, data_dir, content)
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m osp_jax.data.prepare", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("name", help=f"{', '.join(OFFICIAL)}, or another TFDS name")
    parser.add_argument("--archive", metavar="FILE", help="the official archive, instead of downloading it")
    default_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    parser.add_argument("--dir", default=default_dir, help="the TFDS data folder (default: %(default)s)")
    args = parser.parse_args()
    exit_on_input_error(lambda: print(prepare(args.name, args.dir, args.archive)))


def _is_prepared(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InputError(f"{folder} is not a whole TFDS folder; remove it and run again") from None
    if file_format not in ("array_record", "parquet"):
        raise InputError(f"{folder} holds {file_format}, which only TensorFlow reads; move it away and run again")
    return True


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Waits for other processes that prepare the same; yields False where the file system or platform has no locks."""
    with open(path, "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except (ImportError, OSError):
            locked = False
        yield locked


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder} has {free >> 20} MiB free, about {needed >> 20} MiB are needed; make room")


# Getting the archive.


def _find(official: Archive, downloads: Path, archive: str | os.PathLike | None) -> Path:
    """The path of the archive: the one given, else the one in `downloads`, where it is downloaded to if need be."""
    path = downloads / official.file if archive is None else Path(archive).expanduser()
    if archive is not None and not path.is_file():
        raise InputError(f"{path} is not a file; --archive must name {official.file}, from {official.url}")
    if not path.exists():
        _require_space(downloads, 3 * official.size)
        _download(official, path)
    return path


def _is_official(path: Path, official: Archive) -> bool:
    with open(path, "rb") as file:
        return official.sha256 in (None, hashlib.file_digest(file, "sha256").hexdigest())


def _download(official: Archive, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.writelines(_fetch(official, path.parent))
        if not _is_official(part, official):
            raise InputError(f"{official.url} broke off or is not what was published (its sha256 differs); run again")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(official: Archive, folder: Path) -> Iterator[bytes]:
    from rich.console import Console
    from rich.progress import wrap_file

    bar = {"console": Console(stderr=True), "description": official.file, "disable": not sys.stderr.isatty()}
    try:
        with _open(official.url) as answer, wrap_file(answer, official.size, **bar) as file:
            while block := file.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot download {official.url} ({_reason(error)}); "
            f"put {official.file} by hand into {folder} and run again, or pass --archive=FILE"
        ) from error


def _open(request: str | urllib.request.Request) -> http.client.HTTPResponse:
    """`urlopen` with a limit on the whole wait for an answer: it sets none on the look-up of the name."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=_STALL_SECONDS))
        except Exception as error:  # raised below
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "no network"
    return "no answer" if isinstance(cause, TimeoutError) else str(getattr(cause, "strerror", None) or cause)


# Reading the archive.


@dataclass(frozen=True)
class _Content:
    image: dict  # the arguments of TFDS's image feature
    names: dict[str, list[str]]  # the class names of each label feature
    splits: dict[str, Iterable[tuple[int | str, dict]]]  # the key that TFDS shuffles by, and the example


def _read(name: str, path: Path) -> _Content:
    """Reads and checks the whole archive, so that nothing can be wrong with it once writing has begun."""
    try:
        return _read_tiny_imagenet(path) if name == "tiny_imagenet" else _read_cifar(path, *_CIFAR[name])
    except _DAMAGE as error:
        reason = error.args[0] if error.args else type(error).__name__
        url = OFFICIAL[name].url
        raise InputError(f"{path} is not a whole {OFFICIAL[name].file} ({reason}); get it from {url}") from error


# Folder, files of each split, and the label features in the order of their bytes, with the file and number of names.
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


def _read_cifar(path: Path, folder: str, splits: dict[str, list[str]], labels: dict[str, tuple[str, int]]) -> _Content:
    members = {}
    with gzip.open(path) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            parent, _, file = posixpath.normpath(member.name).rpartition("/")
            if parent == folder and member.isfile():
                members[file] = tar.extractfile(member).read()
        while unzipped.read(1 << 20):  # tarfile stops before the end, where gzip keeps its checksum
            pass
    for file in itertools.chain(*splits.values(), (file for file, _ in labels.values())):
        if file not in members:
            raise ValueError(f"{folder}/{file} is missing")
    names = {label: members[file].decode().split() for label, (file, _) in labels.items()}
    counts = [count for _, count in labels.values()]
    if [len(classes) for classes in names.values()] != counts:
        raise ValueError("wrong number of class names")

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
    return _Content({"shape": (32, 32, 3)}, names, {split: examples(split, array) for split, array in arrays.items()})


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _read_tiny_imagenet(path: Path) -> _Content:
    root = "tiny-imagenet-200"
    pattern = re.compile(rf"{root}/train/(\w+)/images/([^/]+\.JPEG)")
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.read(f"{root}/wnids.txt").decode().split())
        rows = [
            line.split("\t") for line in archive.read(f"{root}/val/val_annotations.txt").decode().split("\n") if line
        ]
        members = {  # split -> (class, file, member)
            "train": [(match[1], match[2], match[0]) for match in map(pattern.fullmatch, archive.namelist()) if match],
            "validation": [(wnid, file, f"{root}/val/images/{file}") for file, wnid, *_ in rows],
        }
        splits = {split: [] for split in members}
        for split, images in members.items():
            if not images or {wnid for wnid, *_ in images} != set(names):
                raise ValueError(f"its {split} images are not of the classes in wnids.txt")
            for wnid, file, member in images:
                example = {"id": f"{wnid}/{file}", "image": archive.read(member), "label": names.index(wnid)}
                splits[split].append((example["id"], example))
    shapes = {_jpeg_shape(*pair) for examples in splits.values() for pair in examples}
    if len(shapes) > 1:
        raise ValueError(f"its images differ in size: {sorted(shapes)}")
    return _Content({"shape": shapes.pop(), "encoding_format": "jpeg"}, {"label": names}, splits)


def _jpeg_shape(key: str, example: dict) -> tuple[int, int, int]:
    try:
        width, height = Image.open(io.BytesIO(example["image"]), formats=["JPEG"]).size
    except OSError:
        raise ValueError(f"{key} is not a JPEG image") from None
    return height, width, 3  # also the few grey ones: TFDS decodes them to three equal channels


# Writing the folder.


def _write(dataset: str, data_dir: Path, content: _Content) -> None:
    """Writes into a temporary folder, which TFDS renames at the end and removes after a failure."""
    tfds = _tfds()
    labels = {feature: tfds.features.ClassLabel(names=names) for feature, names in content.names.items()}
    features = {"id": tfds.features.Text(), "image": tfds.features.Image(**content.image), **labels}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "osp_jax.data.prepare"  # also when this file is run as __main__
        name = dataset
        VERSION = tfds.core.Version(OFFICIAL[dataset].version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{dataset}, written by osp_jax from {OFFICIAL[dataset].url}",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return content.splits

        def _generate_examples(self):
            raise NotImplementedError  # abstract in TFDS; `_split_generators` gives the examples themselves

    with _tfds_at_work(data_dir):
        Builder(data_dir=data_dir).download_and_prepare(file_format="array_record")


def _tfds():
    import tensorflow_datasets as tfds  # slow to import

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


@contextlib.contextmanager
def _tfds_at_work(folder: Path) -> Iterator[None]:
    """Silences TFDS's remarks, and raises the disk's own error where TFDS or its C++ writers wrap it in another."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:
        cause: BaseException | None = error
        while cause:
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
                wrapped = isinstance(cause, RuntimeError) and os.strerror(code) in str(cause)
                if wrapped or (isinstance(cause, OSError) and cause.errno == code):
                    raise OSError(code, os.strerror(code), str(folder)) from error
            cause = cause.__cause__ or cause.__context__
        raise


# Data sets that only TFDS knows.


def _prepare_with_tfds(name: str, data_dir: Path) -> Path:
    tfds = _tfds()
    _check_name(name, {*OFFICIAL, *tfds.list_builders(with_community_datasets=False)})
    try:
        with _tfds_at_work(data_dir):
            builder = tfds.builder(name, data_dir=data_dir)
            folder = Path(builder.data_path)
            if not _is_prepared(folder):
                _require_sources(builder, data_dir / "downloads" / "manual")
                # TFDS's own copies in the cloud are tfrecord files, of no use without TensorFlow.
                config = tfds.download.DownloadConfig(try_download_gcs=False)
                builder.download_and_prepare(file_format="array_record", download_config=config)
    except InputError:
        raise
    except Exception as error:
        if getattr(error, "errno", None):
            raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        code = f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(data_dir)!r})"
        raise InputError(
            f"TFDS cannot prepare {name} here ({reason}); if it needs TensorFlow, do it once on a machine with `pip "
            f"install tensorflow`: python -c \"{code}.download_and_prepare(file_format='array_record')\""
        ) from error
    return folder


def _check_name(name: str, known: set[str]) -> None:
    dataset = re.split("[/:]", name)[0]
    if dataset in OFFICIAL:
        raise InputError(f"unknown data set {name!r}; give the plain name {dataset!r}, it has one version")
    if dataset not in known:
        close = difflib.get_close_matches(dataset, sorted(known))
        remedy = f"close matches: {', '.join(close)}" if close else "see https://www.tensorflow.org/datasets/catalog"
        raise InputError(f"unknown data set {name!r}; {remedy}")


def _require_sources(builder, manual: Path) -> None:
    """Fails at once where TFDS fails late: with files to be put by hand missing, or no network (after minutes)."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not manual.is_dir() or not any(manual.iterdir()):
            raise InputError(f"put the files of {builder.name} into {manual}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return
    urls = builder.url_infos or {}
    files = sorted(info.filename or "" for info in urls.values())
    if files and all(file and (manual / file).exists() for file in files):
        return  # TFDS looks there, for these names, before it downloads
    host = next(filter(None, (urlsplit(url).hostname for url in urls)), "storage.googleapis.com")
    try:
        _open(urllib.request.Request(f"https://{host}", method="HEAD")).close()
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except OSError as error:
        raise InputError(
            f"cannot download {builder.name} from {host} ({_reason(error)}); put {', '.join(files[:5]) or 'its files'} "
            f"by hand into {manual} and run again"
        ) from error


if __name__ == "__main__":
    main()
