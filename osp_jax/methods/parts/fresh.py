"""Freshly initialised variables."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from osp_jax.model import Model
from osp_jax.runtime.distributed import on_cpu


def fresh_variables(model: Model, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """The result of `model.init` for images `(h, w, c)`, compiled."""
    return _initialiser(model.init)(key, tuple(image_shape))


@lru_cache(maxsize=32)
def _initialiser(init: Callable[..., Any]) -> Any:
    # It runs once, so XLA's CPU optimisations would cost far more time than they save.
    options = {"xla_backend_optimization_level": 0} if on_cpu() else None
    return jax.jit(init, static_argnums=1, compiler_options=options)
