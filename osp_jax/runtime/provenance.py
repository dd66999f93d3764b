"""Provenance of a result: command, commit, versions and device, stored with every artifact."""

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from osp_jax.runtime.distributed import describe_device

_PACKAGES = ("osp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def provenance(seed: int) -> dict[str, Any]:
    """A JSON-ready record of this process: command line, commit, seed, versions, device and time (UTC)."""
    return {
        "command": _command(),
        "commit": _commit(),
        "seed": seed,
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": describe_device(),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _command() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    start = (
        f"python -m {spec.name.removesuffix('.__main__')}"
        if spec and spec.name != "__main__"
        else f"python {Path(sys.argv[0]).name}"
    )
    return " ".join([start, *sys.argv[1:]])


@lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the source tree of this package, with `+` if it has changes; 'unknown' outside of one."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside the repository of another project.
        if Path(git("rev-parse", "--show-toplevel")) != root.resolve():
            return "unknown"
        # Without git's lock, which an interrupted git would leave behind and which would block commits.
        changed = git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@lru_cache(maxsize=64)
def version(package: str) -> str:
    """The version of an installed package, or 'not installed'."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
