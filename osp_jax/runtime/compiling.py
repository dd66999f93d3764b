"""How programs are compiled that run once."""

from collections.abc import Callable
from typing import Any

import jax

from osp_jax.runtime.distributed import on_cpu


def jit_to_run_once(f: Callable[..., Any], static_argnums: int | tuple[int, ...] = ()) -> Callable[..., Any]:
    """`jax.jit(f)` for a program that runs once: XLA's optimisations for a CPU would take longer than they save."""
    options = {"xla_backend_optimization_level": 0} if on_cpu() else None
    return jax.jit(f, static_argnums=static_argnums, compiler_options=options)
