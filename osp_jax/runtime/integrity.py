"""`SHA256SUMS`: the checksums of a folder's files, written last and verified on every read.

The format is that of `sha256sum`, so `sha256sum -c SHA256SUMS` also checks a folder. A folder may contain folders with
their own checksums, as a workdir contains checkpoints; only their `SHA256SUMS` is listed. A folder without `SHA256SUMS`
was written by an older version: it is read with a warning.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.records import parse_json
from osp_jax.runtime.replacing import is_temporary, write_text

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_PIECE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n"content": (.*)\}\n', re.DOTALL)
_warned: set[Path] = set()

Remedy = str | Callable[[str], str]


def write_sums(folder: Path, names: Iterable[str] | None = None, *, fresh: bool = False) -> None:
    """Writes `SHA256SUMS`, and flushes the listed files to disk; only the first process does so.

    Args:
      names: files to add, relative to `folder`; None: all files. Other listed files keep their checksum, so that damage
        is not hidden; files in removed folders are dropped.
      fresh: whether to list `names` only.
    """
    if not is_first():
        return
    earlier = {} if fresh or names is None else read_sums(folder, "delete it") or {}
    sums = {name: digest for name, digest in earlier.items() if not _is_removed(folder, name)}
    for name in files_in(folder) if names is None else names:
        sums[name] = _digest(folder / name, flush=True)
    text = _text(sums)
    path = folder / SUMS
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def read_sums(folder: Path, remedy: Remedy) -> dict[str, str] | None:
    """The checksum of each file; None if there is no `SHA256SUMS`.

    Raises:
      InputError: `SHA256SUMS` is damaged.
    """
    path = folder / SUMS
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        found = b""
    matches = [_LINE.fullmatch(line) for line in found.decode("utf-8", "replace").splitlines()]
    sums = {match[2]: match[1] for match in matches if match}
    if not sums or _text(sums).encode() != found:
        raise InputError(f"{path} is damaged; {_remedy(remedy, SUMS)}")
    return sums


def check_sums(
    folder: Path,
    remedy: Remedy,
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    required: Iterable[str] = (),
    complete: bool = False,
    part_of: Path | None = None,
) -> bool:
    """Compares the files of `folder` with its checksums; returns False if there are none.

    A subfolder that was removed as a whole is no damage: statistics can be collected again.

    Args:
      remedy: the remedy for a damaged file, for the message, or a function from its name to the remedy.
      only: the files to compare; None: all listed files.
      skip: files to leave out.
      required: files that must be listed.
      complete: whether all files, except hidden ones, must be listed.
      part_of: the folder to name in the warning about missing checksums; None: `folder`.

    Raises:
      InputError: a file is damaged, missing or not listed. The message names the file and the remedy.
    """
    sums = read_sums(folder, remedy)
    if sums is None:
        warn_unchecked(part_of or folder)
        return False
    for name, expected in sorted(sums.items()):
        if name in skip or (only is not None and name not in only) or _is_removed(folder, name):
            continue
        path = folder / name
        try:
            found = _digest(path)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path} is missing; {_remedy(remedy, name)}") from None
        except IsADirectoryError:
            found = None
        if found != expected:
            raise InputError(f"{path} is damaged: {SUMS} has another checksum; {_remedy(remedy, name)}")
    present = (name for name in files_in(folder) if not name.startswith(".")) if complete else ()
    for name in (*required, *present):
        if name not in sums:
            raise InputError(f"{folder / SUMS} is damaged: it does not list {name}; {_remedy(remedy, name)}")
    return True


def files_in(folder: Path) -> Iterator[str]:
    """The files that `SHA256SUMS` of a folder covers, as sorted relative names; links are included but not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name == SUMS or is_temporary(entry.name):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield entry.name
        elif (folder / entry.name / SUMS).exists():
            yield f"{entry.name}/{SUMS}"
        else:
            yield from (f"{entry.name}/{name}" for name in files_in(folder / entry.name))


def warn_unchecked(folder: Path) -> None:
    """Warns, once per process and folder, that damage to `folder` cannot be detected."""
    key = folder.absolute()
    if key not in _warned and is_first():
        _warned.add(key)
        print(f"warning: {folder} has no {SUMS} (an older version wrote it); damage is not noticed", file=sys.stderr)


def write_piece(path: Path, content: Any) -> None:
    """Writes one finished part of a longer run as a JSON file with its own checksum: {"sha256", "content"}."""
    body = json.dumps(content, indent=1, allow_nan=False)
    write_text(path, f'{{"sha256": "{hashlib.sha256(body.encode()).hexdigest()}",\n"content": {body}}}\n')


def read_piece(path: Path) -> Any:
    """Reads what `write_piece` wrote, or, with a warning, a JSON file of an older version.

    Raises:
      InputError: the file is damaged.
    """
    found = path.read_bytes()
    match = _PIECE.fullmatch(found)
    if match and hashlib.sha256(match[2]).hexdigest().encode() == match[1]:
        return parse_json(match[2], path)
    damaged = InputError(f"{path} is damaged; delete it, and the same command makes it again")
    # Older versions write a newline after the first brace.
    if found.startswith(b'{"') or not found.startswith((b"{", b"[")) or b'\n"content": ' in found:
        raise damaged
    try:
        content = parse_json(found, path)
    except InputError as error:
        raise damaged from error
    warn_unchecked(path.parent)
    return content


def _digest(path: Path, *, flush: bool = False) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
    return found


def _text(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def _is_removed(folder: Path, name: str) -> bool:
    """Whether `name` is the `SHA256SUMS` of a removed folder."""
    return name.endswith(f"/{SUMS}") and not (folder / name).parent.exists()


def _remedy(remedy: Remedy, name: str) -> str:
    return remedy if isinstance(remedy, str) else remedy(name)
