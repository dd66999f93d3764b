"""Finds or downloads the archive of a data set and verifies it; without a network it fails within seconds."""

import errno
import hashlib
import http.client
import os
import queue
import shutil
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from osp_jax.data.archives import Archive
from osp_jax.data.paths import check_readable, user_path
from osp_jax.runtime.errors import InputError

_ANSWER_SECONDS = 6  # for name look-up, connection and first response together
_STALL_SECONDS = 30  # for each block after that


def find_archive(official: Archive, downloads: Path, archive: str | os.PathLike | None) -> Path:
    """The path of `archive` if given, else of the archive in `downloads`, which is downloaded if it is missing."""
    path = downloads / official.file if archive is None else user_path(archive, "--archive", "file")
    if archive is not None and not path.is_file():
        raise InputError(f"{path} is not a file; --archive must name {official.file}, from {official.url}")
    if not path.is_file():
        if path.is_symlink() or path.exists():
            raise InputError(f"{path} is not a file; move it away, or pass --archive=FILE")
        require_space(downloads, 3 * official.size)
        _download(official, path)
    check_readable(path)
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_official(path: Path, official: Archive) -> None:
    """Raises `InputError` unless the file has the published checksum."""
    if official.sha256 not in (None, found := sha256_of(path)):
        raise InputError(
            f"{path} is not {official.file} as published (its sha256 differs: {found}, not {official.sha256}); get it "
            f"from {official.url}, or pass --accept_unknown_archive if you trust this file"
        )


def _download(official: Archive, path: Path) -> None:
    part = path.with_name(f".{path.name}.osp_jax_part")
    try:
        with open(part, "wb") as file:
            file.writelines(_fetch(official, path.parent))
        if official.sha256 not in (None, sha256_of(part)):
            raise InputError(f"{official.url} broke off or is not what was published (its sha256 differs); run again")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(official: Archive, folder: Path) -> Iterator[bytes]:
    from rich.console import Console
    from rich.progress import wrap_file

    bar = {"console": Console(stderr=True), "description": official.file, "disable": not sys.stderr.isatty()}
    try:
        with open_url(official.url) as answer, wrap_file(answer, official.size, **bar) as file:
            while block := file.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot download {official.url} ({cause_of(error)}); "
            f"put {official.file} by hand into {folder} and run again, or pass --archive=FILE"
        ) from error


def open_url(request: str | urllib.request.Request) -> http.client.HTTPResponse:
    """`urlopen` with a limit on the whole wait for a response, since its own limit excludes the name look-up."""
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


def cause_of(error: Exception) -> str:
    """A short reason for a failed `open_url`."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "no network"
    return "no answer" if isinstance(cause, TimeoutError) else str(getattr(cause, "strerror", None) or cause)


def require_space(folder: Path, needed: int) -> None:
    """Raises `InputError` unless `needed` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder} has {free >> 20} MiB free, about {needed >> 20} MiB are needed; make room")
