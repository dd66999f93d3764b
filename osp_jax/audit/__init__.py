"""Measures what an unlearned model still knows: one file per question, all run by `run.audit`.

The package is callable: `osp_jax.audit(model, unlearned, data)` is `osp_jax.api_audit.audit`.
"""

import importlib
import sys
import types
from typing import Any


class _Audit(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("osp_jax.api_audit").audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Audit
