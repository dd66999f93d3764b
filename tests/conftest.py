"""Shared by all tests: devices, how programs are compiled and kept, and small things to test on.

There are eight CPU devices; a program runs on one of them unless its test uses a mesh. XLA compiles with few
optimisations, in a fraction of the time; `make test-all` compiles as users do, with an empty `XLA_FLAGS`.
"""

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import psutil
import pytest

MOST_RESIDENT = 2.5 * 2**30  # bytes
FIRST = ("experiments", "runtime", "comparison")  # folders with few tests to a file, of many seconds each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slow folders in front: at the end, one process would wait for the last file of the other."""
    items.sort(key=lambda item: item.path.parent.name not in FIRST)


def pytest_collection_finish() -> None:
    """Leaves what was imported to no garbage collection, a tenth of the time otherwise: tracing makes many objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Clears the caches that hold compiled programs, which take gigabytes for all test modules together.

    Those of the library's own functions are cleared after each module, since a test may have replaced what they call;
    JAX's, which the modules share, when the process has grown large.
    """
    yield
    for name, module in sys.modules.copy().items():  # a finalizer that imports may add one while a list is made of them
        if name.startswith("osp_jax"):
            for value in vars(module).copy().values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    if psutil.Process().memory_info().rss > MOST_RESIDENT:
        jax.clear_caches()
        gc.collect()
        return_memory()


def return_memory() -> None:
    """Gives freed memory back to the system, where the C library keeps it: 2 MB a program."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
