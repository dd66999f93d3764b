"""Paths and data set names given by a user, checked before any file is accessed."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from osp_jax.runtime.errors import InputError, printable, shown
from osp_jax.runtime.paths import check_path

# The name formats of TFDS: name, name/config, name:version, name/config:version.
_NAME = re.compile(r"[a-zA-Z_][\w-]*(/[\w.+-]*[\w+-])?(:(\d+|\*)(\.(\d+|\*)){0,2})?", re.ASCII)
_LONGEST_NAME = 200
_TEXT_SUFFIXES = (".jsonl", ".csv")
USER_DATA = {
    "folder": "folder:PATH, the folder of the images",
    "npz": "npz:FILE, the file of the images",
    "text": "text:FILE, the jsonl or csv file of the texts",
}


def check_name(name: object) -> None:
    """Raises `InputError` unless `name` has the format of a data set name."""
    if not isinstance(name, str):
        raise InputError(f"data.name is of type {type(name).__name__}; give the name of a data set, such as cifar10")
    if len(name) > _LONGEST_NAME:
        raise InputError(f"the name of the data set has {len(name)} characters; give at most {_LONGEST_NAME}")
    if os.path.exists(os.path.expanduser(name)) and not _NAME.fullmatch(name):
        texts = any(suffix in _TEXT_SUFFIXES for suffix in Path(name).suffixes)
        kind = "folder" if os.path.isdir(os.path.expanduser(name)) else "text" if texts else "npz"
        raise InputError(f"data.name is the path {shown(name)}; give {shown(f'{kind}:{name}')}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"unknown data set {shown(name)}; give digits, cifar10 or another name of "
            "https://www.tensorflow.org/datasets/catalog, folder:PATH for images in folders, npz:FILE, or text:FILE"
        )


class UserData(NamedTuple):
    """`kind` is one of `USER_DATA`; `title` names the data in records and reports, wherever they are."""

    kind: str
    path: Path
    title: str


def user_data(name: str, elsewhere: str = "") -> UserData | None:
    """The location of the data set 'folder:PATH', 'npz:FILE' or 'text:FILE'; None for any other name.

    Args:
      elsewhere: `data.dir` or `--data_dir`, if not empty: another path, or for a file the folder that contains it.

    Raises:
      InputError: the path is invalid, or is a file instead of a folder or the reverse.
    """
    kind, colon, text = name.partition(":")
    if not colon or kind not in USER_DATA:
        return None
    if not text.strip():
        raise InputError(f"data.name is {shown(name)}; give {USER_DATA[kind]}")
    title = f"{kind}:{printable(Path(os.path.abspath(text)).name)}"
    wanted = "folder" if kind == "folder" else "file"
    if not elsewhere:
        return UserData(kind, user_path(text, "data.name", wanted), title)
    path = user_path(elsewhere, "data.dir or --data_dir", "folder" if kind == "folder" else "folder or file")
    return UserData(kind, path / Path(text).name if kind != "folder" and path.is_dir() else path, title)


def with_absolute_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` section of a config for records: 'folder:PATH', 'npz:FILE' and 'text:FILE', and their `dir`, with
    absolute paths, so that a command in another folder finds them; unchanged for other data sets.
    """
    kind, colon, text = data["name"].partition(":")
    if not colon or kind not in USER_DATA or not text.strip():
        return {**data}
    place = _absolute(data["dir"]) if data["dir"] else ""
    return {**data, "name": f"{kind}:{_absolute(text)}", "dir": place}


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def user_path(text: str | os.PathLike, what: str, kind: str = "folder") -> Path:
    """The path that a user gave, with `~` expanded; it need not exist.

    Args:
      what: the setting or flag, for the message.
      kind: 'folder' or 'file'.

    Raises:
      InputError: as `osp_jax.runtime.paths.check_path`, or the path starts with an unknown home folder.
    """
    check_path(text, what, kind)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{what} is {shown(os.fspath(text))}, but that home folder is not known; give a path without ~"
        ) from error


def check_data_dir(folder: Path) -> None:
    """Raises `InputError` if `folder`, checked by `user_path`, is a broken link or is not readable."""
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"the data folder {folder} is a link to nothing; correct data.dir or TFDS_DATA_DIR")
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(
            f"the data folder {folder} cannot be read ({error.strerror}); correct data.dir or TFDS_DATA_DIR"
        ) from error


def check_readable(path: Path) -> None:
    """Raises `InputError` if this user cannot read the file `path`."""
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (permission denied); let your user read it, or choose another")


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents, or raises `InputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made ({error.strerror}); choose another data folder"
        ) from error
