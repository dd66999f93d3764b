"""Paths given by a user, checked before anything is read or written."""

import errno
import os
import stat

from osp_jax.runtime.errors import InputError, printable, shown

_REMEDIES = {
    errno.ELOOP: "its links lead in a circle; give another path",
    errno.ENAMETOOLONG: "it is too long for the file system; give a shorter one",
    errno.ENOTDIR: "a part of it is a file, not a folder; give another path",
    errno.EACCES: "permission denied; give a path you may read",
}


def check_path(path: object, what: str, kind: str) -> None:
    """Raises `InputError` unless `path` is valid for a 'folder' or 'file', as `kind` says; it need not exist.

    Args:
      what: name of the flag or setting, for the message.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{what} is {shown(path)}; give the path of a {kind}")
    text = os.fspath(path)
    if not text.strip():
        raise InputError(f"{what} is empty; give the path of a {kind}")
    if printable(text) != text:
        raise InputError(f"{what} is {shown(text)}; give a path without control characters, in UTF-8")
    try:
        mode = os.stat(os.path.expanduser(text)).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{what} is {shown(text)}: {_REMEDIES.get(error.errno, error.strerror)}") from error
    if kind == "folder" and not stat.S_ISDIR(mode):
        raise InputError(f"{what} is {shown(text)}, which is a file; give a folder")
    if kind == "file" and stat.S_ISDIR(mode):
        raise InputError(f"{what} is {shown(text)}, which is a folder; give a file")
