"""The entries of a folder, their changes, and damage to one byte of a file."""

import hashlib
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path


def snapshot(folder: Path) -> dict[str, str]:
    """Each entry below `folder`, with its kind, mode and content; links are not followed."""
    found = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = _describe(path)
    return found


def _describe(path: bytes) -> str:
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)!r}"
    if stat.S_ISDIR(status.st_mode):
        return f"folder {mode:o}"
    if stat.S_ISREG(status.st_mode):
        if not os.access(path, os.R_OK):
            return f"file {mode:o} of {status.st_size} bytes"
        with open(path, "rb") as file:
            return f"file {mode:o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return f"special {mode:o}"


def harm(before: dict[str, str], after: dict[str, str], own: Collection[str] = ()) -> list[str]:
    """Forbidden changes by a command: old entries that are gone or changed, and new ones that are not `own`.

    `own` are the entries that the command may write, relative to the folder; entries below and above them may be new,
    too.
    """
    lost = [f"{'changed' if name in after else 'deleted'} {name}" for name in before if after.get(name) != before[name]]
    owned = [os.path.normpath(name) for name in own]
    stray = [
        f"left {name}"
        for name in after
        if name not in before
        and not any(name == o or name.startswith(f"{o}/") or o.startswith(f"{name}/") for o in owned)
    ]
    return sorted(lost) + sorted(stray)


def entries(folder: Path, depth: int = 2) -> list[str]:
    """The names in `folder` and its subfolders, `depth` levels, of which an interrupted run must not leave more."""
    found = snapshot(folder)
    return sorted(name for name in found if name.count("/") < depth)


def flip(path: Path, offset: int, bits: int) -> None:
    """Flips the given `bits`, from 1 to 255, of one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ bits]))


def remove(folder: Path) -> None:
    """Removes a folder, whatever the permissions of its subfolders."""
    if folder.is_dir():
        folder.chmod(0o755)
        for parent, folders, _ in os.walk(folder):
            for name in folders:
                if not os.path.islink(os.path.join(parent, name)):
                    os.chmod(os.path.join(parent, name), 0o755)
        shutil.rmtree(folder)
