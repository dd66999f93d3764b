"""Shared by all tests: two CPU devices, a compilation cache, and small things to test on."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest

_MOST_MAPS = 25_000


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Drops compiled programs before the process has more memory maps than Linux allows it (65,530 as a rule).

    Each program holds several, and XLA aborts the process when it gets no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()
