"""Compares the memory that images need with the available memory, before any image is read."""

import math
import os
from pathlib import Path

from osp_jax.runtime.errors import InputError


def image_bytes(count: int, height: int, width: int, channels: int) -> int:
    """Bytes of `count` uint8 images."""
    return math.prod((count, height, width, channels))


def available_memory() -> float:
    """Bytes that a new array may take: free or reclaimable, within the limit of the container; infinite if the system
    does not report it."""
    return min(_of_machine(), _of_container())


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises `InputError` if `what`, of `needed` bytes, exceeds the available memory."""
    available = available_memory()
    if needed > available:
        raise InputError(f"{what} take {needed / 1e9:,.1f} GB and {available / 1e9:,.1f} GB are available; {remedy}")


def _of_machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _of_container() -> float:
    """The limit of the control group (version 2), minus the memory in use that cannot be reclaimed."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))  # 'max' without a limit
        used = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - int(used["anon"])
    except (OSError, ValueError, KeyError):
        return math.inf
