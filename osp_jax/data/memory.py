"""Compares the memory that images need with the available memory, before any image is read."""

import math
from pathlib import Path

import psutil

from osp_jax.runtime.errors import InputError


def image_bytes(count: int, height: int, width: int, channels: int) -> int:
    """Bytes of `count` uint8 images."""
    return math.prod((count, height, width, channels))


def available_memory() -> float:
    """Bytes that a new array may take: free or reclaimable, within the limit of the container."""
    return min(psutil.virtual_memory().available, _of_container())


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises `InputError` if `what`, of `needed` bytes, exceeds the available memory."""
    available = available_memory()
    if needed > available:
        raise InputError(f"{what} take {needed / 1e9:,.1f} GB and {available / 1e9:,.1f} GB are available; {remedy}")


def _of_container() -> float:
    """The limit of the control group (version 2), minus the memory in use that cannot be reclaimed."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))  # 'max' without a limit
        used = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - int(used["anon"])
    except (OSError, ValueError, KeyError):
        return math.inf
