"""Make a trained image classifier forget classes, and show that it did: docs/architecture.md is the map."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Model": "model",
    "from_linen": "interop.linen",
    "from_nnx": "interop.nnx",
    "to_nnx": "interop.nnx",
    "from_function": "interop.function",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for (PEP 562), so that `import osp_jax` stays instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'osp_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"osp_jax.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
