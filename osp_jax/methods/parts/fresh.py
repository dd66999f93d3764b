"""Freshly initialised variables."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from osp_jax.model import Model
from osp_jax.runtime.compiling import jit_to_run_once


def fresh_variables(model: Model, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    """The result of `model.init` for images `(h, w, c)`, compiled."""
    return _initialiser(model.init)(key, tuple(image_shape))


@lru_cache(maxsize=32)
def _initialiser(init: Callable[..., Any]) -> Any:
    return jit_to_run_once(init, static_argnums=1)
