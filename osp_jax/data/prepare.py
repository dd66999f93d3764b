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
import io
import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from osp_jax.data.archives import OFFICIAL, Content, read_archive
from osp_jax.data.download import cause_of, find_archive, is_official, open_url, require_space
from osp_jax.errors import InputError, exit_on_input_error


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
        path = find_archive(official, downloads, archive)
        require_space(data_dir, 2 * path.stat().st_size)
        content = read_archive(name, path)
        if not is_official(path, official):
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


# Writing the folder.


def _write(dataset: str, data_dir: Path, content: Content) -> None:
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
        open_url(urllib.request.Request(f"https://{host}", method="HEAD")).close()
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except OSError as error:
        raise InputError(
            f"cannot download {builder.name} from {host} ({cause_of(error)}); "
            f"put {', '.join(files[:5]) or 'its files'} by hand into {manual} and run again"
        ) from error


if __name__ == "__main__":
    main()
