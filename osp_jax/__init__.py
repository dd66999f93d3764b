"""Makes a trained classifier forget classes and audits the result; docs/architecture.md describes the layout."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Model": "model",
    "from_linen": "interop.linen",
    "from_nnx": "interop.nnx",
    "to_nnx": "interop.nnx",
    "from_torch": "interop.torch",
    "to_torch": "interop.torch",
    "from_function": "interop.function",
    "load_data": "api",
    "collect_statistics": "api",
    "prepare": "api",
    "unlearn": "api",
    "fit_head": "head_fit",
    "forget_images": "head_fit",
    "export": "exports.export",
    "HarmError": "harm",
    "InputError": "runtime.errors",
}

__all__ = ["__version__", "audit", *_PUBLIC]

if TYPE_CHECKING:
    from osp_jax.api import collect_statistics as collect_statistics
    from osp_jax.api import load_data as load_data
    from osp_jax.api import prepare as prepare
    from osp_jax.api import unlearn as unlearn
    from osp_jax.api_audit import audit as audit
    from osp_jax.exports.export import export as export
    from osp_jax.harm import HarmError as HarmError
    from osp_jax.head_fit import fit_head as fit_head
    from osp_jax.head_fit import forget_images as forget_images
    from osp_jax.interop.function import from_function as from_function
    from osp_jax.interop.linen import from_linen as from_linen
    from osp_jax.interop.nnx import from_nnx as from_nnx
    from osp_jax.interop.nnx import to_nnx as to_nnx
    from osp_jax.interop.torch import from_torch as from_torch
    from osp_jax.interop.torch import to_torch as to_torch
    from osp_jax.model import Model as Model
    from osp_jax.runtime.errors import InputError as InputError


def __getattr__(name: str) -> Any:
    """Imports a public name on first access (PEP 562), so that `import osp_jax` stays fast."""
    if name == "audit":  # a callable package
        return importlib.import_module("osp_jax.audit")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'osp_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"osp_jax.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
