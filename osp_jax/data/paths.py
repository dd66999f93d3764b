"""Paths and data set names given by a user, checked before any file is touched."""

import os
import re
from pathlib import Path

from osp_jax.errors import InputError

# As TFDS writes them: name, name/config, name:version, name/config:version.
_NAME = re.compile(r"[a-zA-Z_][\w-]*(/[\w.+-]*[\w+-])?(:(\d+|\*)(\.(\d+|\*)){0,2})?", re.ASCII)
_LONGEST_NAME, _LONGEST_PATH = 200, 4096


def check_name(name: object) -> None:
    """Raises `InputError` unless `name` has the form of a data set's name."""
    if not isinstance(name, str):
        raise InputError(f"data.name is of type {type(name).__name__}; give the name of a data set, such as cifar10")
    if len(name) > _LONGEST_NAME:
        raise InputError(f"the name of the data set has {len(name)} characters; give at most {_LONGEST_NAME}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"unknown data set {name!a}; give digits, cifar10 or another name of "
            "https://www.tensorflow.org/datasets/catalog"
        )


def user_path(text: str | os.PathLike, what: str) -> Path:
    """The path that a user gave, with `~` expanded.

    Args:
      what: the setting or flag it comes from, for the message.

    Raises:
      InputError: no path at all, one that no file system can hold, or one in an unknown home.
    """
    given = os.fspath(text)
    if not isinstance(given, str):
        raise InputError(f"{what} is of type {type(given).__name__}; give a path as text")
    if not given.strip():
        raise InputError(f"{what} is empty; give a path")
    if "\0" in given or len(os.fsencode(given)) >= _LONGEST_PATH:
        raise InputError(f"{what} is not a path that this system can hold ({len(given)} characters); give another")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise InputError(f"{what} is {given!a}, but that home folder is not known; give a path without ~") from error


def check_data_dir(folder: Path) -> None:
    """Raises `InputError` where `folder` can be no data folder: a file, a broken or circular link, or forbidden."""
    try:
        folder.stat()
        if folder.is_dir():
            os.scandir(folder).close()
            return
    except FileNotFoundError:
        if not folder.is_symlink():
            return
        raise InputError(f"the data folder {folder} is a link to nothing; correct data.dir or TFDS_DATA_DIR") from None
    except OSError as error:
        raise InputError(
            f"the data folder {folder} cannot be read ({error.strerror}); correct data.dir or TFDS_DATA_DIR"
        ) from error
    raise InputError(f"the data folder {folder} is a file; correct data.dir or TFDS_DATA_DIR")


def check_readable(path: Path) -> None:
    """Raises `InputError` where this user may not read the file `path`."""
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (permission denied); let your user read it, or choose another")


def make_folder(folder: Path) -> None:
    """Makes `folder` and what it lies in, or raises `InputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made ({error.strerror}); choose another data folder"
        ) from error
