"""Prepares data sets without TensorFlow: `python -m osp_jax.data.prepare cifar10 [--archive=FILE] [--dir=DIR]`.

TFDS reads a prepared folder without TensorFlow, but its builders need TensorFlow to unpack archives and to encode
images. This module therefore writes CIFAR-10, CIFAR-100 and Tiny ImageNet from their official archives, with the names,
versions, features and record order of TFDS, so that its folders and those of TFDS are interchangeable. TFDS prepares
any other name, if it can do so without TensorFlow.
"""

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from osp_jax.data.archives import OFFICIAL, Content, read_archive
from osp_jax.data.download import cause_of, check_official, find_archive, open_url, require_space, sha256_of
from osp_jax.data.folder import read_format
from osp_jax.data.paths import check_data_dir, check_name, make_folder, user_path
from osp_jax.runtime.arguments import Parser
from osp_jax.runtime.errors import InputError, exit_on_input_error
from osp_jax.runtime.limits import require_open_files
from osp_jax.runtime.system_errors import system_errors

_TEMPORARY = ".osp_jax_preparing."  # followed by the name of the data set and random letters
_WAIT_SECONDS = 900  # for another process; a preparation takes a few minutes


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    archive: str | os.PathLike | None = None,
    *,
    accept_unknown_archive: bool = False,
) -> Path:
    """Prepares a data set for reading with TFDS; does nothing if it is already prepared.

    Args:
      name: One of `OFFICIAL`, or any other name that TFDS knows.
      data_dir: The TFDS data folder. Archives are searched in, and downloaded to, its `downloads`.
      archive: The official archive, if it is elsewhere; only for the names in `OFFICIAL`.
      accept_unknown_archive: Whether to read an archive whose sha256 is not the published one, with a warning.

    Returns:
      The folder of the prepared data set, `data_dir/name/version`.

    Raises:
      InputError: The name is unknown, the archive is damaged, not the published one or not available, or there is not
        enough space.
      OSError: The disk failed.
    """
    check_name(name)
    data_dir = user_path(data_dir, "the data folder")
    check_data_dir(data_dir)
    if name not in OFFICIAL:
        if archive is not None:
            raise InputError(f"no archive can be given for {name!r}, only for: {', '.join(OFFICIAL)}")
        return _prepare_with_tfds(name, data_dir)
    official = OFFICIAL[name]
    folder = data_dir / name / official.version
    if _is_prepared(folder):
        return folder
    downloads = data_dir / "downloads"
    if archive is None and not (downloads / official.file).exists():
        _check_versions(folder)
    make_folder(downloads)
    with _lock(downloads / f".{name}.lock", name) as locked:
        if _is_prepared(folder):  # by another process in the meantime
            return folder
        for leftover in data_dir.glob(f"{_TEMPORARY}{name}.*") if locked else ():
            shutil.rmtree(leftover)  # left by a killed process
        path = find_archive(official, downloads, archive)
        if not accept_unknown_archive:
            check_official(path, official)
        elif sha256_of(path) != official.sha256:
            print(f"warning: {path} is not {official.file} as published (its sha256 differs)", file=sys.stderr)
        require_space(data_dir, 2 * path.stat().st_size)
        _write(name, data_dir, read_archive(name, path))
    return folder


def main() -> None:
    """The command line."""
    exit_on_input_error(_run)


def _run() -> None:
    parser = Parser(prog="python -m osp_jax.data.prepare", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("name", help=f"{', '.join(OFFICIAL)}, or another TFDS name")
    parser.add_argument("--archive", metavar="FILE", help="the official archive, instead of downloading it")
    parser.add_argument(
        "--accept_unknown_archive", action="store_true", help="read an archive whose sha256 is not the published one"
    )
    default_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    parser.add_argument("--dir", default=default_dir, help="the TFDS data folder (default: %(default)s)")
    args = parser.parse_args()
    require_open_files()
    print(prepare(args.name, args.dir, args.archive, accept_unknown_archive=args.accept_unknown_archive))


def _is_prepared(folder: Path) -> bool:
    if not folder.exists() and not folder.is_symlink():
        return False
    try:
        file_format = read_format(folder)
    except ValueError as error:
        raise InputError(f"{folder} is not a whole TFDS folder ({error}); remove it and run again") from error
    if file_format not in ("array_record", "parquet"):
        raise InputError(f"{folder} holds {file_format}, which only TensorFlow reads; move it away and run again")
    return True


def _check_versions(folder: Path) -> None:
    """Raises `InputError` if there are other versions than `folder`, before anything is downloaded."""
    others = sorted(path.name for path in folder.parent.glob("*.*.*") if (path / "dataset_info.json").is_file())
    if others:
        raise InputError(
            f"{folder.parent} holds version {', '.join(others)[:80]}, but {folder.name} is needed; move it away, or "
            f"pass the archive: python -m osp_jax.data.prepare {folder.parent.name} --archive=FILE"
        )


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[bool]:
    """Waits for other processes that prepare the same set; yields False if the file system or platform has no locks.

    Raises:
      InputError: another process holds the lock for longer than a preparation takes.
    """
    # Opened without truncating it, and without blocking if it is a pipe.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        yield _locked(descriptor, path, name)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, path: Path, name: str) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    end = time.monotonic() + _WAIT_SECONDS
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError:
            return False
        if time.monotonic() > end:
            raise InputError(
                f"another process has been preparing {name} for {_WAIT_SECONDS} s (it locks {path}); wait for it, or "
                "end it and run again"
            )
        if not said:
            print(f"waiting for another process that prepares {name} ({path})", file=sys.stderr)
            said = True
        time.sleep(min(0.2, _WAIT_SECONDS))


# Writing the folder


def _write(dataset: str, data_dir: Path, content: Content) -> None:
    """Writes to our own temporary folder next to the target, and renames it when it is complete."""
    version = OFFICIAL[dataset].version
    temporary = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{dataset}.", dir=data_dir))
    try:
        with _tfds_at_work(data_dir):
            _build(dataset, temporary, content)
        (data_dir / dataset).mkdir(exist_ok=True)
        try:
            (temporary / dataset / version).rename(data_dir / dataset / version)
        except OSError:
            if not _is_prepared(data_dir / dataset / version):  # by another process, if there are no locks
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _build(dataset: str, data_dir: Path, content: Content) -> None:
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
            raise NotImplementedError  # abstract in TFDS; `_split_generators` returns the examples themselves

    Builder(data_dir=data_dir).download_and_prepare(file_format="array_record")


def _tfds():
    import tensorflow_datasets as tfds  # slow to import

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


@contextlib.contextmanager
def _tfds_at_work(folder: Path) -> Iterator[None]:
    """Silences the messages of TFDS, and raises the disk's own error if TFDS or its C++ writers wrap it in another."""
    with system_errors(folder), contextlib.redirect_stdout(io.StringIO()):
        yield


# Data sets that only TFDS knows


def _prepare_with_tfds(name: str, data_dir: Path) -> Path:
    tfds = _tfds()
    _check_name(name, {*OFFICIAL, *tfds.list_builders(with_community_datasets=False)})
    try:
        with _tfds_at_work(data_dir):
            builder = tfds.builder(name, data_dir=data_dir)
            folder = Path(builder.data_path)
            if not _is_prepared(folder):
                _require_sources(builder, data_dir / "downloads" / "manual")
                # The prepared copies of TFDS in the cloud are tfrecord files, which need TensorFlow.
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
    """Fails early where TFDS fails late: if manual files are missing, or (after minutes) without a network."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not manual.is_dir() or not any(manual.iterdir()):
            raise InputError(f"put the files of {builder.name} into {manual}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return
    urls = builder.url_infos or {}
    files = sorted(info.filename or "" for info in urls.values())
    if files and all(file and (manual / file).exists() for file in files):
        return  # TFDS searches these names there before it downloads
    host = next(filter(None, (urlsplit(url).hostname for url in urls)), "storage.googleapis.com")
    try:
        open_url(urllib.request.Request(f"https://{host}", method="HEAD")).close()
    except urllib.error.HTTPError:
        pass  # the host responded
    except OSError as error:
        raise InputError(
            f"cannot download {builder.name} from {host} ({cause_of(error)}); "
            f"put {', '.join(files[:5]) or 'its files'} by hand into {manual} and run again"
        ) from error


if __name__ == "__main__":
    main()
