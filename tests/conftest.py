"""Shared by all tests: devices, how programs are compiled and kept, and small things to test on.

There are eight CPU devices; a program runs on one of them unless its test uses a mesh. LLVM does not optimise what XLA
compiles, which takes a third less time; `make test-all` compiles as users do, with an empty `XLA_FLAGS`.
"""

import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Clears the caches that hold compiled programs: those of all test modules together take gigabytes."""
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("osp_jax"):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    jax.clear_caches()
    gc.collect()
