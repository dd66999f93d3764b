"""Atomic replacement of files and folders: at any moment, a path holds either all of the old or all of the new content.

New content is written next to its target, in `.NAME.XXXXXXXX.osp_jax` with random digits: a file, or a folder with a
marker file and the new `content`. The writer holds a lock on it, which ends with its process. The next writer of the
same name removes those without a lock. Nothing else is ever removed.

A folder is replaced by one exchange of names (`renameat2` on Linux). On systems without it, the old folder is first
moved aside; if the process is killed between these two steps, the next writer moves it back.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from osp_jax.runtime.distributed import broadcast_from_first, is_first, wait_for_all

try:
    import fcntl
except ImportError:  # Windows; there nothing is removed
    fcntl = None

MARKER = "written_by_osp_jax"

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.osp_jax", re.DOTALL)
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


def write_text(path: Path, text: str) -> None:
    """Replaces a file by one with this text (UTF-8); only the first process does so."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file by one with this content; only the first process does so."""
    if not is_first():
        return
    remove_leftovers(path)
    temporary = _temporary(path, secrets.randbits(31))
    try:
        with temporary.open("xb") as file:
            _lock(file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(path.parent)


@contextmanager
def building(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an unused path; the folder, or file, that the caller creates there replaces `path` at the end.

    Several processes get the same path; the first one moves the folder. They wait for each other before the block but
    not after it: make sure that all are done when the first one leaves it, and that none reads `path` before that.

    Raises:
      OSError: `path` is not empty, and `overwrite` is not set.
    """
    number, held = secrets.randbits(31), None
    try:
        if is_first():
            remove_leftovers(path)
            held = _make(_temporary(path, number), path.name)
        # The others get the number only after the folder exists.
        holder = _temporary(path, broadcast_from_first(number))
        yield holder / "content"
        if is_first():
            _flush_all(holder / "content")
            _swap(holder / "content", path, overwrite)
    finally:
        if held is not None:
            _remove(_temporary(path, number))
            os.close(held)


@contextmanager
def updating(folder: Path, drop: Collection[str] = ()) -> Iterator[Path]:
    """Yields a copy of `folder`; changes to it appear in `folder` at the end, atomically.

    The copy consists of hard links: replace its files, do not write into them. `drop` names files and folders to leave
    out. `folder` need not exist. A mount point, or a folder in a read-only parent, cannot be exchanged; it is changed
    in place, file by file.
    """
    folder = folder.resolve()
    if folder.exists() and (os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)):
        yield folder
        for name in drop if is_first() else ():
            shutil.rmtree(folder / name, ignore_errors=True)
        return
    with building(folder, overwrite=True) as content:
        if is_first():
            content.mkdir()
            if folder.exists():
                _link_all(folder, content, drop)
        wait_for_all("the folder is copied")
        yield content
        wait_for_all("the folder is changed")
    wait_for_all("the folder is in its place")


def copy_to_new_file(source: str, path: str) -> None:
    """Like `shutil.copy2`, but creates a new file at `path`, whose content may be shared with another folder."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    shutil.copy2(source, path)


def discard(folder: Path) -> None:
    """Removes a folder atomically, if it exists; only the first process does so."""
    if is_first() and folder.is_dir():
        holder = _temporary(folder, secrets.randbits(31))
        held = _make(holder, folder.name)
        try:
            os.rename(folder, holder / "content")
        finally:
            _remove(holder)
            os.close(held)


def is_temporary(name: str) -> bool:
    """Whether this is the name of one of our temporary files or folders."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(path: Path) -> None:
    """Removes what killed writers of `path` left next to it, and moves back an old folder that they had moved aside."""
    remove_all_leftovers(path.parent, _short(path.name))


def remove_all_leftovers(folder: Path, name: str | None = None) -> None:
    """`remove_leftovers` for everything in `folder`, or for `name` in it."""
    if fcntl is None or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        matches = [_TEMPORARY.fullmatch(entry.name) for entry in entries]
    for match in matches:
        if match and name in (None, match[1]):
            _remove_leftover(folder / match[0], match[1])


def _remove_leftover(leftover: Path, name: str) -> None:
    with suppress(OSError):  # another process removes it too, or it belongs to another user
        if leftover.is_symlink():
            return
        if not leftover.is_dir():
            if _is_free(leftover):
                leftover.unlink()
        elif not any(leftover.iterdir()):
            leftover.rmdir()
        elif (leftover / MARKER).is_file() and _is_free(leftover / MARKER):
            # The marker is empty if the process was killed before it wrote the name of its target.
            target = (leftover / MARKER).read_bytes().decode(errors="replace") or name
            if _short(target) != name:
                return
            if (leftover / "old").exists() and not os.path.lexists(leftover.with_name(target)):
                os.rename(leftover / "old", leftover.with_name(target))
            _remove(leftover)


def _make(holder: Path, target: str) -> int:
    """Creates a folder with a marker; the returned descriptor holds its lock until it is closed."""
    holder.mkdir()
    held = os.open(holder / MARKER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    _lock(held)
    os.write(held, target.encode())
    return held


def _remove(holder: Path) -> None:
    """Removes the marker last, so that an interrupted removal can be finished."""
    for path in list(holder.iterdir()):
        if path.name == "old" or path.name.startswith("content"):  # Orbax appends to the name while writing
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):  # other files stay
        if os.listdir(holder) == [MARKER]:
            (holder / MARKER).unlink()
        holder.rmdir()


def _swap(content: Path, path: Path, overwrite: bool) -> None:
    if not overwrite or not os.path.lexists(path):
        os.rename(content, path)
    elif not _exchange(content, path):
        os.rename(path, content.with_name("old"))
        os.rename(content, path)
    _flush(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False if the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _link_all(source: Path, copy: Path, drop: Collection[str] = ()) -> None:
    with os.scandir(source) as entries:
        found = [entry for entry in entries if entry.name not in drop and not is_temporary(entry.name)]
    for entry in found:
        there = copy / entry.name
        if entry.is_dir(follow_symlinks=False):
            there.mkdir()
            _link_all(Path(entry.path), there)
            continue
        try:
            os.link(entry.path, there, follow_symlinks=False)
        except OSError:  # a file system without hard links, or one that forbids them
            shutil.copy2(entry.path, there, follow_symlinks=False)
    shutil.copystat(source, copy)


def _flush_all(folder: Path) -> None:
    for directory, _, _ in os.walk(folder):
        _flush(Path(directory))


def _flush(folder: Path) -> None:
    """Flushes the names in `folder` to disk."""
    with suppress(OSError):  # some file systems cannot flush folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _temporary(path: Path, number: int) -> Path:
    return path.with_name(f".{_short(path.name)}.{number:08x}.osp_jax")


def _short(name: str) -> str:
    """The start of a name, short enough for the additions of a temporary name."""
    return name.encode()[:150].decode(errors="ignore")


def _lock(handle: int) -> None:
    with suppress(OSError):  # some network file systems have no locks
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_free(path: Path) -> bool:
    """Whether no process holds the lock on a file."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True
